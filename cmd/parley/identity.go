package main

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/parley-bt/parley/cmd/parley/internal/keyfile"
	safe "github.com/parley-bt/parley/cmd/parley/internal/term"
)

type identityEvent struct {
	head
	Path      string `json:"path"`
	PublicKey string `json:"public_key"`
	Created   bool   `json:"created"`
}

type swarmKeyEvent struct {
	head
	Path string `json:"path"`
}

func (a *app) identityCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "identity",
		Short: "Make and show the keys that a peer is known by",
		Long: `Make and show the keys that a peer is known by, and those of closed swarms.

An identity is a private key that a peer can prove to those with whom it has a veiled session. They then know that it is the same as before, in whatever torrent; so it is
for peers that want to be known, and none is used unless it is asked for. A swarm key closes a swarm: without it nobody can connect to its peers, nor learn that they serve its torrent.

Key files are for their owner alone. One that its group or others can read or write is refused; on Windows this is not checked, so keep them in a folder of your own.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, "parley identity ", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(a.identityNewCmd(), a.identityShowCmd(), a.swarmKeyCmd())
	return cmd
}

func (a *app) identityNewCmd() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "new FILE",
		Short: "Make an identity",
		Long: `Make a new identity, write it to FILE and print its public key, which is
what others know it by. FILE is a private key in PEM (Ed25519, PKCS #8).`,
		Example: "  parley identity new ~/.config/parley/identity",
		Args:    wantsFile,
		RunE: a.runs(func(_ context.Context, args []string) error {
			key, err := keyfile.CreateIdentity(args[0], force)
			if err != nil {
				return keyOutputError(args[0], err)
			}
			public := publicKey(key)
			a.ui.event(identityEvent{now("identity"), args[0], public, true})
			a.ui.say("created:    %s", safe.Escape(args[0]))
			a.ui.say("public key: %s", public)
			return nil
		}),
	}
	forceFlag(cmd, &force)
	return cmd
}

func (a *app) identityShowCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "show FILE",
		Short: "Print the public key of an identity",
		Long: `Print the public key of the identity in FILE, as 64 hexadecimal digits and
nothing else. The private key is not printed.`,
		Args: wantsFile,
		RunE: a.runs(func(_ context.Context, args []string) error {
			key, err := keyfile.LoadIdentity(args[0])
			if err != nil {
				return keyInputError(err)
			}
			a.ui.event(identityEvent{now("identity"), args[0], publicKey(key), false})
			a.ui.say("%s", publicKey(key))
			return nil
		}),
	}
}

func (a *app) swarmKeyCmd() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "swarm-key FILE",
		Short: "Make the key of a closed swarm",
		Long: `Make the key of a closed swarm and write it to FILE. Every peer of the swarm
needs a copy; give it to them by a way that nobody else can read.`,
		Args: wantsFile,
		RunE: a.runs(func(_ context.Context, args []string) error {
			if _, err := keyfile.CreateSwarmKey(args[0], force); err != nil {
				return keyOutputError(args[0], err)
			}
			a.ui.event(swarmKeyEvent{now("swarm_key"), args[0]})
			a.ui.say("created:    %s", safe.Escape(args[0]))
			return nil
		}),
	}
	forceFlag(cmd, &force)
	return cmd
}

func forceFlag(cmd *cobra.Command, force *bool) {
	cmd.Flags().BoolVar(force, "force", false, "replace an existing FILE; the key in it is lost")
}

// wantsFile is wants(1, "FILE") for a command below another.
func wantsFile(cmd *cobra.Command, args []string) error {
	hint := "usage: " + cmd.CommandPath() + " FILE"
	switch {
	case len(args) == 0 || args[0] == "":
		return failf(exitUsage, hint, "%s: FILE is missing", cmd.Name())
	case len(args) > 1:
		return failf(exitUsage, hint+"; put what holds spaces or & in quotes", "%s: too many arguments, from %q on", cmd.Name(), args[1])
	}
	return nil
}

func publicKey(key ed25519.PrivateKey) string {
	return hex.EncodeToString(key.Public().(ed25519.PublicKey))
}

// keyOutputError is the error for a key file that could not be written.
func keyOutputError(path string, err error) error {
	hint := "name another file"
	switch {
	case errors.Is(err, fs.ErrExist):
		return failf(exitStorage, hint+", or add --force to replace it: the key in it is lost then", "%s: exists already", path)
	case isDiskFull(err):
		hint = "make room, or name a file in another place"
	case errors.Is(err, fs.ErrNotExist):
		hint = "create the folder first, or name a file in another place"
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	return failf(exitStorage, hint, "%s: %w", path, err)
}

// keyInputError is the error for a key file that cannot be used.
func keyInputError(err error) error {
	if me, ok := errors.AsType[*keyfile.ModeError](err); ok {
		return failf(exitInput, "run chmod 600 "+me.Path+"; if somebody may have read it, make a new key", "%s: others can read or write it (mode %04o)", me.Path, me.Mode)
	}
	if _, ok := errors.AsType[*keyfile.FormatError](err); ok {
		return failf(exitInput, "parley identity new makes an identity, parley identity swarm-key a swarm key", "%w", err)
	}
	return inputError(err)
}
