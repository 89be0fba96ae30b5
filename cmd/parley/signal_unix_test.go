//go:build !windows

package main

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSignals runs the program as a process of its own and ends it as people do.
func TestSignals(t *testing.T) {
	file := write(t, t.TempDir(), "talk.txt", "hello")
	for _, tt := range []struct {
		name  string
		sig   syscall.Signal
		args  []string
		ready string
		code  int
		says  string
	}{
		{"interrupt", syscall.SIGINT, []string{"seed", file, "--listen", loopback}, "serving", exitOK, "stopped after "},
		{"terminate", syscall.SIGTERM, []string{"listen", file, "--type", "a", "--listen", loopback}, `"listening"`, exitOK, `"event":"stopped"`},
		{"get", syscall.SIGTERM, []string{"get", someMagnet, "--peer", "127.0.0.1:1"}, "cannot be reached", exitInterrupted, "interrupted; nothing was received yet"},
		{"send", syscall.SIGINT, []string{"send", someMagnet, "--type", "a", "--peer", "127.0.0.1:1", "hi"}, "cannot be reached", exitInterrupted, "interrupted; no peer is known to have taken the message"},
		// A read of standard input that never returns must not keep the program alive.
		{"while waiting for standard input", syscall.SIGINT, []string{"send", file, "--type", "a", "--peer", "127.0.0.1:1", "--log-level", "debug", "-"}, "reading the message", exitInterrupted, "interrupted; nothing was sent"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := newWatched()
			cmd := exec.Command(os.Args[0], tt.args...)
			cmd.Env = append(os.Environ(), "PARLEY_TEST_MAIN=1")
			cmd.Stdout, cmd.Stderr = out, out
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer stdin.Close()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			out.wait(t, tt.ready)
			if err := cmd.Process.Signal(tt.sig); err != nil {
				t.Fatal(err)
			}
			err = cmd.Wait()
			if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
				t.Fatal(err)
			}
			if code := cmd.ProcessState.ExitCode(); code != tt.code {
				t.Errorf("exit code %d, want %d; output:\n%s", code, tt.code, out)
			}
			if !strings.Contains(out.String(), tt.says) {
				t.Errorf("no %q in the output:\n%s", tt.says, out)
			}
			if strings.Contains(out.String(), "panic") {
				t.Error(out)
			}
		})
	}
}

// TestSignalWhileNobodyReads fills the pipe behind standard output, so that the listener cannot end by itself.
func TestSignalWhileNobodyReads(t *testing.T) {
	file := write(t, t.TempDir(), "talk.txt", "hello")
	cmd := exec.Command(os.Args[0], "listen", file, "--type", "a", "--listen", loopback)
	cmd.Env = append(os.Environ(), "PARLEY_TEST_MAIN=1")
	errOut := newWatched()
	cmd.Stderr = errOut
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	addr := errOut.wait(t, `(?m)^address: (\S+)$`)[1]
	for range 5 { // 300,000 bytes: more than pipes hold, less than the listener's queue does
		cliIn(t, strings.Repeat("x", 60_000), "send", file, "--peer", addr, "--type", "a", "-").check(t, exitOK)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	errOut.wait(t, "will not wait any longer")
	state, err := cmd.Process.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if code := state.ExitCode(); code != exitInterrupted {
		t.Errorf("exit code %d, want %d", code, exitInterrupted)
	}
	if err := stdout.Close(); err != nil {
		t.Error(err)
	}
}

// process runs the program as a process of its own.
func process(t *testing.T, args ...string) (cmd *exec.Cmd, out, errOut *watched) {
	t.Helper()
	out, errOut = newWatched(), newWatched()
	cmd = exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "PARLEY_TEST_MAIN=1")
	cmd.Stdout, cmd.Stderr = out, errOut
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
		if t.Failed() {
			t.Logf("parley %s\nstdout:\n%s\nstderr:\n%s", strings.Join(args, " "), brief(out.String()), brief(errOut.String()))
		}
	})
	return cmd, out, errOut
}

// end signals a process and checks how it ends.
func end(t *testing.T, cmd *exec.Cmd, sig syscall.Signal, code int) {
	t.Helper()
	if err := cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := cmd.Wait(); err != nil && code == exitOK {
		t.Error(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("exit code %d, want %d", got, code)
	}
	if took := time.Since(began); took > patience/2 {
		t.Errorf("took %v to end", took)
	}
}

// A file of which not all has gone when Ctrl-C is pressed is not a message, whatever the peer does meanwhile.
func TestSignalWhileAFileIsSent(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "talk.txt", "hello")
	big := write(t, dir, "big", strings.Repeat("x", maxMessageBytes))
	listener, out, errOut := process(t, "listen", file, "--type", "a", "--max", "16MiB", "--listen", loopback)
	addr := errOut.wait(t, `(?m)^address: (\S+)$`)[1]
	sender, _, said := process(t, "send", file, "--peer", addr, "--type", "a", "--log-level", "debug", "--file", big, "--timeout", "0", "--no-pex", "--wait", "1h")
	said.wait(t, "RECEIVES")
	if err := listener.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), `"message"`) {
		t.Skip("the file went before the listener could be stopped")
	}
	end(t, sender, syscall.SIGINT, exitInterrupted)
	if err := listener.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	out.wait(t, `"peer_disconnected"`)
	if !strings.Contains(said.String(), "interrupted; no peer is known to have taken the message") {
		t.Skip("the file went before the listener stopped")
	}
	end(t, listener, syscall.SIGTERM, exitOK)
	if strings.Contains(out.String(), `"event":"message"`) {
		t.Error("a message came")
	}
}

// A slow handler keeps neither side from ending at once.
func TestSignalWhileARequestIsHandled(t *testing.T) {
	file := write(t, t.TempDir(), "talk.txt", "hello")
	listener, out, errOut := process(t, "listen", file, "--type", "a", "--echo", "--delay", "1h", "--listen", loopback)
	addr := errOut.wait(t, `(?m)^address: (\S+)$`)[1]
	asker, answer, said := process(t, "send", file, "--peer", addr, "--type", "a", "--request", "one")
	out.wait(t, `"payload":"one"`)
	end(t, asker, syscall.SIGINT, exitInterrupted)
	if answer.String() != "" || !strings.Contains(said.String(), "interrupted; no answer has come") {
		t.Errorf("said %q, %q", answer, said)
	}
	out.wait(t, `"event":"handler_failed"`)
	_, _, _ = process(t, "send", file, "--peer", addr, "--type", "a", "--request", "two")
	out.wait(t, `"payload":"two"`)
	end(t, listener, syscall.SIGTERM, exitOK)
	out.wait(t, `"event":"stopped"`)
}
