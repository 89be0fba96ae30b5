package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/parley-bt/parley/bench/internal/usage"
)

// python is Debian's, which is the one that python3-libtorrent belongs to.
const python = "/usr/bin/python3"

// child is a program that is driven by lines: it is told what to do on standard input, answers on standard output, and ends when its input does, also when
// this process dies.
type child struct {
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string // closed at the end of its output
	tail  tail
	quit  func() error // how to end a program that does not mind its input, whose exit status then says nothing; or nil
}

// start starts a program. The caller stops it.
func start(ctx context.Context, name string, args ...string) (*child, error) {
	c := &child{name: name, cmd: exec.CommandContext(ctx, args[0], args[1:]...), lines: make(chan string, 64)}
	c.cmd.Stderr = &c.tail
	c.cmd.WaitDelay = 3 * time.Second
	var err error
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { // ends with the child's output
		defer close(c.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			c.lines <- s.Text()
		}
	}()
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// tell writes a line to the child.
func (c *child) tell(line string) error {
	if _, err := io.WriteString(c.stdin, line+"\n"); err != nil {
		return fmt.Errorf("%s: %w%s", c.name, err, c.tail.text())
	}
	return nil
}

// expect waits for a line that begins with word and returns its other words.
func (c *child) expect(ctx context.Context, word string, timeout time.Duration) ([]string, error) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		select {
		case line, ok := <-c.lines:
			f := strings.Fields(line)
			switch {
			case !ok:
				return nil, fmt.Errorf("%s ended before it said %s%s", c.name, word, c.tail.text())
			case len(f) > 0 && f[0] == word:
				return f[1:], nil
			case len(f) > 0 && f[0] == "ERR":
				return nil, fmt.Errorf("%s: %s", c.name, line)
			}
		case <-timer.C:
			return nil, fmt.Errorf("%s did not say %s within %v%s", c.name, word, timeout, c.tail.text())
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// ask tells the child a line and waits for its answer.
func (c *child) ask(ctx context.Context, line, word string, timeout time.Duration) ([]string, error) {
	if err := c.tell(line); err != nil {
		return nil, err
	}
	return c.expect(ctx, word, timeout)
}

// stop ends the child: first its input, then, after some seconds, the child.
func (c *child) stop() error {
	c.stdin.Close() // it may have ended already; Wait says how
	var quitErr error
	if c.quit != nil {
		if quitErr = c.quit(); errors.Is(quitErr, os.ErrProcessDone) {
			quitErr = nil
		}
	}
	kill := time.AfterFunc(5*time.Second, func() { c.cmd.Process.Kill() })
	for range c.lines { // Wait may come only after the last read
	}
	err := c.cmd.Wait()
	if !kill.Stop() {
		return fmt.Errorf("%s did not end by itself within 5 s of its input and was killed", c.name)
	}
	if err != nil && c.quit == nil {
		return fmt.Errorf("%s: %w%s", c.name, err, c.tail.text())
	}
	return quitErr
}

// stopAll stops the children and adds what went wrong to *err. An error that is there already explains the others.
func stopAll(err *error, children ...*child) {
	for _, c := range children {
		if c == nil {
			continue
		}
		if e := c.stop(); e != nil && *err == nil {
			*err = e
		}
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailBytes = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if n := len(t.b) - tailBytes; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.b) == 0 {
		return ""
	}
	return "; its last words:\n" + string(bytes.TrimSpace(t.b))
}

// cpuSeconds returns the user and system time of a process so far, as /proc counts it: in ticks of 10 ms (USER_HZ is 100 on every Linux
// that Go runs on).
func cpuSeconds(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStat(b)
}

func parseStat(b []byte) (float64, error) {
	// The second field, the name in brackets, may hold anything; utime and stime are fields 14 and 15.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 13 {
		return 0, errors.New("/proc stat: too few fields")
	}
	user, err := strconv.Atoi(f[11])
	if err != nil {
		return 0, fmt.Errorf("/proc stat: user time: %w", err)
	}
	system, err := strconv.Atoi(f[12])
	if err != nil {
		return 0, fmt.Errorf("/proc stat: system time: %w", err)
	}
	return float64(user+system) / 100, nil
}

// memory is what /proc says about a process's memory, in KiB.
type memory struct{ anon, peakRSS float64 }

func memoryOf(pid int) (memory, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return memory{}, err
	}
	return parseStatus(b)
}

func parseStatus(b []byte) (memory, error) {
	var m memory
	found := 0
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		var to *float64
		switch key {
		case "RssAnon":
			to = &m.anon
		case "VmHWM":
			to = &m.peakRSS
		default:
			continue
		}
		n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
		if err != nil {
			return memory{}, fmt.Errorf("/proc status: %s: %w", key, err)
		}
		*to = float64(n)
		found++
	}
	if found != 2 {
		return memory{}, errors.New("/proc status: no RssAnon or VmHWM")
	}
	return m, nil
}

// watchAnon samples the anonymous memory of processes until the result is called, which returns each one's largest value in KiB. File pages are not in it:
// an implementation that maps its files is not charged for them.
func watchAnon(pids ...int) func() []float64 {
	peak := make([]float64, len(pids))
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			for i, pid := range pids {
				if m, err := memoryOf(pid); err == nil { // it may be ending
					peak[i] = max(peak[i], m.anon)
				}
			}
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	return func() []float64 {
		close(done)
		wg.Wait()
		return peak
	}
}

// otherCores is the key of every sample for the processor time that programs outside the benchmark took meanwhile, in cores; above quiet, the machine was not
// free for it.
const (
	otherCores = "other_cores"
	quiet      = 0.1
)

// watchOthers begins to watch what the rest of the machine does; the result says how many cores it used. Programs of ours count as the rest until they have been
// waited for, so nothing of ours may be running at either end.
func watchOthers() (func() (float64, error), error) {
	read := func() (all float64, ours time.Duration, err error) {
		b, err := os.ReadFile("/proc/stat")
		if err != nil {
			return 0, 0, err
		}
		all, err = parseBusy(b)
		return all, usage.CPU() + usage.Children(), err
	}
	start := time.Now()
	all0, ours0, err := read()
	if err != nil {
		return nil, err
	}
	return func() (float64, error) {
		all1, ours1, err := read()
		if err != nil {
			return 0, err
		}
		return max(0, (all1-all0-(ours1-ours0).Seconds())/time.Since(start).Seconds()), nil
	}, nil
}

// parseBusy returns the seconds that all cores together have spent on processes (user, nice, system) or were kept from by the host (steal).
func parseBusy(b []byte) (float64, error) {
	first, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(first)
	if len(f) < 9 || f[0] != "cpu" {
		return 0, errors.New("/proc/stat: no line of all cores")
	}
	var ticks int
	for _, i := range []int{1, 2, 3, 8} {
		n, err := strconv.Atoi(f[i])
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		ticks += n
	}
	return float64(ticks) / 100, nil
}

// pause waits for d, or until ctx ends. It is for letting the machine or a target come to rest before something is read.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
