package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// peer is a running implementation that is ready: a seeder with its data verified, or a leecher that waits to be told to go.
type peer struct {
	*child
	addr string                                       // where it accepts peers
	dial func(ctx context.Context, addr string) error // begins the download from the peer there
}

// Time that a peer may take to start; a seeder verifies its data in it.
const startTimeout = 60 * time.Second

// startPeer starts a seeder or a leecher of content c in dir. extra are arguments for that implementation.
func (b *bench) startPeer(ctx context.Context, im impl, mode string, c content, dir string, extra ...string) (*peer, error) {
	var args []string
	switch im {
	case implParley, implMSE, implVeil:
		args = slices.Concat([]string{filepath.Join(b.tmp, "peer"), mode, "-torrent", c.torrent, "-dir", dir}, im.helloArg(), extra)
	case implLibtorrent, implLibtorrentRC4:
		args = append([]string{python, filepath.Join(b.src, "foreign", "lt_peer.py"), mode, c.torrent, dir}, extra...)
		if im == implLibtorrentRC4 {
			args = append(args, "--rc4")
		}
	case implAria2:
		return b.startAria2(ctx, mode, c, dir)
	default:
		return nil, fmt.Errorf("no way to start %s", im)
	}
	return startDriven(ctx, fmt.Sprintf("%s %s", im, mode), args...)
}

// startDriven starts a program that says READY HOST:PORT and takes "go HOST:PORT".
func startDriven(ctx context.Context, name string, args ...string) (*peer, error) {
	ch, err := start(ctx, name, args...)
	if err != nil {
		return nil, err
	}
	f, err := ch.expect(ctx, "READY", startTimeout)
	if err == nil && len(f) != 1 {
		err = fmt.Errorf("%s: READY without an address", name)
	}
	if err != nil {
		return nil, errors.Join(err, ch.stop())
	}
	return &peer{child: ch, addr: f[0], dial: func(_ context.Context, addr string) error { return ch.tell("go " + addr) }}, nil
}

// profileArg returns the argument that makes our peer write a CPU profile, and a heap profile of its idle peers, if profiles are wanted. Later runs overwrite earlier ones.
func (b *bench) profileArg(im impl, name string) []string {
	if !im.ours() || b.profile == "" {
		return nil
	}
	args := []string{"-cpuprofile", filepath.Join(b.profile, name+".pprof")}
	if name == "idle" {
		args = append(args, "-memprofile", filepath.Join(b.profile, name+"-heap.pprof"))
	}
	return args
}

// startAria2 starts aria2, which is driven over its JSON-RPC port. It has no way to be given a peer but a tracker, so the leecher gets one on loopback
// that knows exactly one peer. Its hook for a complete download says DONE on the standard output that it inherits.
func (b *bench) startAria2(ctx context.Context, mode string, c content, dir string) (_ *peer, err error) {
	hook := filepath.Join(b.tmp, "aria2-done")
	if err := os.WriteFile(hook, []byte("#!/bin/sh\necho DONE\n"), 0o755); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	rpcPort, err := freePort()
	if err != nil {
		return nil, err
	}
	args := []string{"aria2c", "--no-conf", "--quiet=true", "--dir=" + dir, "--listen-port=" + strconv.Itoa(port), "--interface=127.0.0.1",
		"--enable-rpc=true", "--rpc-listen-all=false", "--rpc-listen-port=" + strconv.Itoa(rpcPort), "--stop-with-process=" + strconv.Itoa(os.Getpid()),
		"--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false", "--enable-peer-exchange=false", "--disable-ipv6=true",
		"--seed-ratio=0.0", "--file-allocation=none", "--async-dns=false", "--auto-save-interval=0"}
	if mode == "seed" {
		args = append(args, "--check-integrity=true", "--allow-overwrite=true", "--bt-exclude-tracker=*", c.torrent)
	} else {
		args = append(args, "--on-bt-download-complete="+hook)
	}
	ch, err := start(ctx, "aria2 "+mode, args...)
	if err != nil {
		return nil, err
	}
	a := &aria2{url: fmt.Sprintf("http://127.0.0.1:%d/jsonrpc", rpcPort)}
	ch.quit = func() error {
		a.closeTracker()
		return ch.cmd.Process.Kill() // its orderly end asks the tracker first, and there is nothing to save
	}
	if err := a.waitReady(ctx, mode == "seed"); err != nil {
		return nil, errors.Join(err, ch.stop())
	}
	return &peer{child: ch, addr: fmt.Sprintf("127.0.0.1:%d", port), dial: func(ctx context.Context, addr string) error {
		return a.download(ctx, c.torrent, addr)
	}}, nil
}

type aria2 struct {
	url     string
	tracker *http.Server
}

// call makes one JSON-RPC call.
func (a *aria2) call(ctx context.Context, result any, method string, params ...any) error {
	if params == nil {
		params = []any{}
	}
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": "1", "method": method, "params": params})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Result json.RawMessage
		Error  *struct{ Message string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("aria2: %s: %w", method, err)
	}
	if answer.Error != nil {
		return fmt.Errorf("aria2: %s: %s", method, answer.Error.Message)
	}
	return json.Unmarshal(answer.Result, result)
}

// waitReady waits until aria2 answers, and as a seeder until it has verified everything.
func (a *aria2) waitReady(ctx context.Context, seeding bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		var active []struct{ TotalLength, CompletedLength, Seeder, VerifiedLength string }
		err := a.call(ctx, &active, "aria2.tellActive")
		if err == nil && !seeding {
			return nil
		}
		if err == nil && len(active) == 1 && active[0].Seeder == "true" && active[0].VerifiedLength == "" && active[0].CompletedLength == active[0].TotalLength {
			return nil
		}
		if e := pause(ctx, 20*time.Millisecond); e != nil {
			return errors.Join(errors.New("aria2 is not ready"), e, err)
		}
	}
}

// download begins a download from the one peer at addr.
func (a *aria2) download(ctx context.Context, torrent, addr string) error {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	ip := ap.Addr().As4()
	answer := "d8:completei1e10:incompletei1e8:intervali3600e5:peers6:" + string(ip[:]) + string([]byte{byte(ap.Port() >> 8), byte(ap.Port())}) + "e"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	a.tracker = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, err := w.Write([]byte(answer)); err != nil {
			return // it asks again
		}
	})}
	go a.tracker.Serve(l) // until closeTracker
	file, err := os.ReadFile(torrent)
	if err != nil {
		return err
	}
	var gid string
	return a.call(ctx, &gid, "aria2.addTorrent", base64.StdEncoding.EncodeToString(file), []string{},
		map[string]string{"bt-tracker": fmt.Sprintf("http://%s/announce", l.Addr())})
}

func (a *aria2) closeTracker() {
	if a.tracker != nil {
		a.tracker.Close()
	}
}

// freePort returns a TCP port that was free on loopback a moment ago, for programs that cannot choose one themselves and say which.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}
