package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/cmd/parley/internal/keyfile"
)

// helloHelp says how to choose a policy, for the help of every command that talks to peers.
const helloHelp = `Without further flags every BitTorrent client can be talked to, obfuscated or not. Where a network blocks or slows BitTorrent, use --hello veil,mse --accept mse,veil:
peers that know no obfuscation are then out of reach. For a private circle give everyone the same --swarm-key, one for each torrent. What is not hidden: addresses, volume and timing;
and from who knows the info-hash, as anybody does of a public torrent, that a veiled session is about it, though not what is said.`

// helloFlags are the flags that say how sessions may begin, and who the sides are.
type helloFlags struct {
	accept, hello []string
	downgrade     bool
	mse           string
	identity      string   // a file
	swarmKey      string   // a file
	expect        []string // --expect-identity

	// By check.
	accepts, dials []parley.Hello // nil: the library's default
	methods        parley.MSEMethods
	key            ed25519.PrivateKey
	swarm          *[keyfile.SwarmKeyBytes]byte
	expected       []ed25519.PublicKey
}

func (f *helloFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringArrayVar(&f.accept, "accept", nil, "take peers that begin with a hello in `LIST`, of plaintext, mse and veil, with commas; by default all. Who begins in another way is read for a while, is told nothing, and is closed")
	fl.StringArrayVar(&f.hello, "hello", nil, "dial with the hellos in `LIST`, such as veil,mse,plaintext, one after the other until one works; by default plaintext and then mse, "+
		"and veil first where a peer is known to take it, or --identity or --expect-identity is given")
	fl.BoolVar(&f.downgrade, "downgrade", false, "dial in plaintext again also where an obfuscated hello has worked in the last 7 days")
	fl.StringVar(&f.mse, "mse", "any", "what may follow a hello by MSE: `rc4`, or any: plaintext too, where the peer has nothing else")
	fl.StringVar(&f.identity, "identity", "", "prove to peers of veiled sessions the identity in `FILE`, see parley identity; it links your sessions in all swarms")
	fl.StringVar(&f.swarmKey, "swarm-key", "", "take part in the closed swarm of the key in `FILE`, which is of this torrent alone, see parley identity; who does not have it cannot connect")
	fl.StringArrayVar(&f.expect, "expect-identity", nil, "warn of each session whose peer does not prove one of the identities `HEX`, as parley identity show prints them; may be repeated, or hold several with commas. The session goes on")
	must(cmd.MarkFlagFilename("identity"))
	must(cmd.MarkFlagFilename("swarm-key"))
	noFiles(cmd, "accept", "hello", "expect-identity")
	must(cmd.RegisterFlagCompletionFunc("mse", cobra.FixedCompletions([]string{"rc4", "any"}, cobra.ShellCompDirectiveNoFileComp)))
}

// check reads the flags, and the files that they name.
func (f *helloFlags) check() (err error) {
	if f.accepts, err = parseHellos("accept", f.accept); err != nil {
		return err
	}
	if f.dials, err = parseHellos("hello", f.hello); err != nil {
		return err
	}
	switch f.mse {
	case "any", "": // "": a command without the flag
		f.methods = parley.MSEAny
	case "rc4":
		f.methods = parley.MSEOnlyRC4
	default:
		return failf(exitUsage, "--mse rc4, or --mse any, which is the default", "--mse %q: want rc4 or any", f.mse)
	}
	f.expected = nil
	for _, v := range splitList(f.expect) {
		k, err := hex.DecodeString(v)
		if err != nil || len(k) != ed25519.PublicKeySize {
			return failf(exitUsage, "parley identity show FILE prints it", "--expect-identity %q: want 64 hexadecimal digits", v)
		}
		f.expected = append(f.expected, k)
	}
	if f.identity != "" {
		if f.key, err = keyfile.LoadIdentity(f.identity); err != nil {
			return keyInputError(err)
		}
	}
	if f.swarmKey != "" {
		for _, l := range []struct {
			flag   string
			hellos []parley.Hello
		}{{"accept", f.accepts}, {"hello", f.dials}} {
			if l.hellos != nil && !slices.Contains(l.hellos, parley.HelloVeil) {
				return failf(exitUsage, "add veil to --"+l.flag+", or leave it out", "--%s %s with --swarm-key: a closed swarm has veiled hellos only", l.flag, hellosText(l.hellos))
			}
		}
		key, err := keyfile.LoadSwarmKey(f.swarmKey)
		if err != nil {
			return keyInputError(err)
		}
		f.swarm = &key
	}
	if f.dials == nil && (f.key != nil || f.expected != nil) {
		f.dials = []parley.Hello{parley.HelloVeil, parley.HelloMSE, parley.HelloPlaintext} // identities are proven in veiled sessions alone
	}
	return nil
}

// parseHellos reads a list of hellos; nil if the flag was not given.
func parseHellos(flag string, values []string) (out []parley.Hello, err error) {
	const hint = "name some of plaintext, mse and veil, with commas in between"
	for _, v := range splitList(values) {
		h, err := parley.ParseHello(v)
		if err != nil {
			return nil, failf(exitUsage, hint, "--%s %q: want plaintext, mse or veil", flag, v)
		}
		if slices.Contains(out, h) {
			return nil, failf(exitUsage, "name each once", "--%s: %v stands there twice", flag, h)
		}
		out = append(out, h)
	}
	return out, nil
}

// hellosText is what parseHellos reads as hellos.
func hellosText(hellos []parley.Hello) string {
	names := make([]string, len(hellos))
	for i, h := range hellos {
		names[i] = h.String()
	}
	return strings.Join(names, ",")
}

// configure tells a client of the flags that concern all its torrents.
func (f *helloFlags) configure(cfg *parley.Config) {
	cfg.AcceptHellos, cfg.DialHellos, cfg.AllowDowngrade, cfg.MSE, cfg.Identity = f.accepts, f.dials, f.downgrade, f.methods, f.key
}

// forOthers are the flags with which the other side can connect, to be pasted.
func (f *helloFlags) forOthers() []string {
	switch {
	case f.swarm != nil:
		return []string{"--swarm-key", f.swarmKey}
	case f.key != nil:
		return []string{"--expect-identity", publicKey(f.key)}
	case f.accepts != nil && !slices.Contains(f.accepts, parley.HelloPlaintext):
		return []string{"--hello", hellosText(f.accepts)} // who dials by the usual order would wait long for an answer, or have none
	}
	return nil
}

// missing reports whether p has not proven an identity, though one is expected.
func (f *helloFlags) missing(p parley.Peer) bool {
	if len(f.expected) == 0 {
		return false
	}
	id := p.Info().Identity
	for _, k := range f.expected {
		if bytes.Equal(k, id) {
			return false
		}
	}
	return true
}

// identityText writes what a peer has proven, nothing if that is nothing.
func identityText(k ed25519.PublicKey) string { return hex.EncodeToString(k) }

// helloText says for people how the session with a peer began, and who it has proven to be; empty for a plaintext one.
func helloText(p parley.Peer) string {
	i := p.Info()
	text := ""
	switch i.Hello {
	case parley.HelloMSE:
		text = ", hello by MSE"
	case parley.HelloVeil:
		text = ", veiled"
	}
	if i.Identity != nil {
		text += ", with identity " + identityText(i.Identity)
	}
	return text
}

// identityMissingEvent says that a session has begun whose peer did not prove an identity that is expected.
type identityMissingEvent struct {
	torrentHead
	Peer     string   `json:"peer"`
	PeerID   string   `json:"peer_id"`
	Hello    string   `json:"hello"`
	Identity string   `json:"identity,omitempty"`
	Expected []string `json:"expected"`
}

// checkIdentity reports a peer that did not prove who it is, though that is expected (EMP/1 section 5.1).
func (l *sessionLog) checkIdentity(ev parley.Event) {
	if l.hellos == nil || !l.hellos.missing(ev.Peer) {
		return
	}
	i := ev.Peer.Info()
	if l.ui.json {
		e := identityMissingEvent{torrentHead{head{"identity_missing", ev.Time.UTC()}, l.infoHash()}, ev.Peer.String(), i.ID.String(), i.Hello.String(), identityText(i.Identity), nil}
		for _, k := range l.hellos.expected {
			e.Expected = append(e.Expected, identityText(k))
		}
		l.ui.emit(e)
	}
	switch {
	case i.Identity != nil:
		l.note("warning: peer %s has proven another identity than those of --expect-identity: %s", peerText(ev.Peer), identityText(i.Identity))
	case i.Hello == parley.HelloVeil:
		l.note("warning: peer %s has proven no identity, and one of --expect-identity was expected", peerText(ev.Peer))
	default:
		l.note("warning: peer %s has proven no identity, and one of --expect-identity was expected: the session is not veiled, and others have none", peerText(ev.Peer))
	}
}
