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
	}{
		{"interrupt", syscall.SIGINT, []string{"seed", file, "--listen", loopback}, "magnet:"},
		{"terminate", syscall.SIGTERM, []string{"listen", file, "--type", "a", "--listen", loopback}, `"listening"`},
		// A read of standard input that never returns must not keep the program alive.
		{"while waiting for standard input", syscall.SIGINT, []string{"send", file, "--type", "a", "--peer", "127.0.0.1:1", "--log-level", "debug", "-"}, "reading the message"},
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
			begin := time.Now()
			if err := cmd.Process.Signal(tt.sig); err != nil {
				t.Fatal(err)
			}
			err = cmd.Wait()
			took := time.Since(begin)
			if ee, ok := errors.AsType[*exec.ExitError](err); !ok || ee.ExitCode() != exitInterrupted {
				t.Errorf("ended with %v, want exit code %d; output:\n%s", err, exitInterrupted, out)
			}
			if took > 2*time.Second {
				t.Errorf("took %v, want at most 2 s", took)
			}
			if strings.Contains(out.String(), "panic") {
				t.Error(out)
			}
		})
	}
}
