//go:build linux

package interop

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a step of a test may take before the test fails: generous, since two cores are shared with others.
// What has to be quick is measured and compared with a bound of its own.
const patience = 60 * time.Second

// A process is a child whose output is kept, shown when the test fails, and waited for line by line. It is killed with
// everything it started when the test ends.
type process struct {
	t     testing.TB
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser

	mu     sync.Mutex
	lines  []string // standard output
	stderr []string
	next   int           // the first line that line has not passed over
	grown  chan struct{} // closed and replaced when there is another line or the end
	ended  bool
	err    error // of Wait, once ended

	taken map[int]bool // lines that event has returned; the test's own
}

// start runs a program in its own process group.
func start(t testing.TB, name, prog string, args ...string) *process {
	t.Helper()
	p := &process{t: t, name: name, cmd: exec.Command(prog, args...), grown: make(chan struct{}), taken: map[int]bool{}}
	p.cmd.Dir = t.TempDir()
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	var readers sync.WaitGroup
	readers.Go(func() { p.collect(stdout, &p.lines) })
	readers.Go(func() { p.collect(stderr, &p.stderr) })
	go func() {
		readers.Wait() // Wait closes the pipes, so everything is read first
		err := p.cmd.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ended, p.err = true, err
		p.announce()
	}()
	t.Cleanup(p.end)
	return p
}

// announce wakes who waits; p.mu is held.
func (p *process) announce() {
	close(p.grown)
	p.grown = make(chan struct{})
}

func (p *process) collect(r io.Reader, into *[]string) {
	br := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := br.ReadString('\n')
		if line != "" {
			p.mu.Lock()
			*into = append(*into, strings.TrimSuffix(line, "\n"))
			p.announce()
			p.mu.Unlock()
		}
		if err != nil {
			return // the end of the child's output, whatever it is called
		}
	}
}

// end stops the child: politely by the end of its input and a signal, then by force, its whole group in any case.
func (p *process) end() {
	p.stdin.Close() // an error means that the child has gone already
	p.signal(syscall.SIGTERM)
	if !p.waitEnd(3 * time.Second) {
		p.signal(syscall.SIGKILL)
		if !p.waitEnd(5 * time.Second) {
			p.t.Errorf("%s: does not die", p.name)
		}
	}
	p.signal(syscall.SIGKILL) // what it may have left behind in its group
	if p.t.Failed() {
		p.show()
	}
}

func (p *process) signal(s syscall.Signal) {
	// ESRCH, nothing there any more, is what we want.
	if err := syscall.Kill(-p.cmd.Process.Pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		p.t.Errorf("%s: signal: %v", p.name, err)
	}
}

func (p *process) waitEnd(d time.Duration) bool {
	deadline := time.After(d)
	for {
		p.mu.Lock()
		ended, grown := p.ended, p.grown
		p.mu.Unlock()
		if ended {
			return true
		}
		select {
		case <-grown:
		case <-deadline:
			return false
		}
	}
}

// show logs the last lines of the child's output.
func (p *process) show() {
	p.mu.Lock()
	defer p.mu.Unlock()
	const most = 40
	tail := func(what string, lines []string) {
		if len(lines) == 0 {
			return
		}
		skipped := max(0, len(lines)-most)
		p.t.Logf("%s, %s (%d lines before these):", p.name, what, skipped)
		for _, l := range lines[skipped:] {
			if len(l) > 400 {
				l = l[:400] + "…"
			}
			p.t.Logf("  %q", l)
		}
	}
	p.t.Logf("%s: %s", p.name, strings.Join(p.cmd.Args, " "))
	tail("standard output", p.lines)
	tail("standard error", p.stderr)
	if p.ended {
		p.t.Logf("%s: ended: %v", p.name, p.err)
	}
}

// line waits for a line of standard output that match accepts and returns it. Lines before it are passed over and will
// not be seen again.
func (p *process) line(what string, match func(string) bool) string {
	p.t.Helper()
	return p.lineWithin(patience, what, match)
}

func (p *process) lineWithin(d time.Duration, what string, match func(string) bool) string {
	p.t.Helper()
	deadline := time.After(d)
	for {
		p.mu.Lock()
		for p.next < len(p.lines) {
			l := p.lines[p.next]
			p.next++
			if match(l) {
				p.mu.Unlock()
				return l
			}
		}
		ended, grown, err := p.ended, p.grown, p.err
		p.mu.Unlock()
		if ended {
			p.t.Fatalf("%s: ended (%v) before %s", p.name, err, what)
		}
		select {
		case <-grown:
		case <-deadline:
			p.t.Fatalf("%s: no %s within %v", p.name, what, d)
		}
	}
}

// A record is one JSON line of a driver.
type record map[string]any

func (r record) text(key string) string          { s, _ := r[key].(string); return s }
func (r record) num(key string) float64          { n, _ := r[key].(float64); return n }
func (r record) mib(key string) float64          { return r.num(key) / (1 << 20) }
func (r record) millis(key string) time.Duration { return time.Duration(r.num(key)) * time.Millisecond }

// event waits for a JSON line whose "event" is one of names and returns the first that was not returned before; lines of
// other names stay for later calls. An "error" that is not waited for fails the test.
func (p *process) event(names ...string) record {
	p.t.Helper()
	return p.eventWithin(patience, names...)
}

func (p *process) eventWithin(d time.Duration, names ...string) record {
	p.t.Helper()
	deadline := time.After(d)
	for {
		p.mu.Lock()
		lines, ended, grown, err := p.lines, p.ended, p.grown, p.err // lines only ever grows
		p.mu.Unlock()
		for i, l := range lines {
			if p.taken[i] {
				continue
			}
			var r record
			if err := json.Unmarshal([]byte(l), &r); err != nil {
				p.t.Fatalf("%s: not JSON: %q", p.name, l)
			}
			event := r.text("event")
			if slices.Contains(names, event) {
				p.taken[i] = true
				return r
			}
			if event == "error" {
				p.t.Fatalf("%s: %s", p.name, l)
			}
		}
		if ended {
			p.t.Fatalf("%s: ended (%v) before event %q", p.name, err, names)
		}
		select {
		case <-grown:
		case <-deadline:
			p.t.Fatalf("%s: no event %q within %v", p.name, names, d)
		}
	}
}

// exit waits for the child to end by itself and returns its exit status.
func (p *process) exit(d time.Duration) int {
	p.t.Helper()
	if !p.waitEnd(d) {
		p.t.Fatalf("%s: still running after %v", p.name, d)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, ok := errors.AsType[*exec.ExitError](p.err); ok {
		return e.ExitCode()
	}
	if p.err != nil {
		p.t.Fatalf("%s: %v", p.name, p.err)
	}
	return 0
}

// succeed waits for the child to end by itself with status 0.
func (p *process) succeed(d time.Duration) {
	p.t.Helper()
	if code := p.exit(d); code != 0 {
		p.t.Fatalf("%s: exit status %d", p.name, code)
	}
}

// output returns the lines of standard output so far.
func (p *process) output() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.lines...)
}

// freePort returns a port that was free a moment ago, for programs that cannot choose and tell.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// waitPort waits until something accepts connections on a port of loopback.
func waitPort(t testing.TB, p *process, port int) {
	t.Helper()
	waitAddr(t, p, fmt.Sprintf("127.0.0.1:%d", port))
}

// waitAddr waits until something accepts connections at an address.
func waitAddr(t testing.TB, p *process, addr string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: does not listen on %s: %v", p.name, addr, err)
		}
		if p.waitEnd(50 * time.Millisecond) {
			t.Fatalf("%s: ended before it listened on %s", p.name, addr)
		}
	}
}
