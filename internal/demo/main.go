// Command demo is what `make run` runs: it builds the parley command, lets two people use it on loopback, and says what
// happens as it happens. It decides nothing about Parley; each step is a command line that the reader can type as well.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	messageType = "demo_chat"
	columns     = 118 // where the lines of the programs are cut
	patience    = 2 * time.Minute
)

func main() {
	file := flag.String("file", "README.md", "the file or folder to share")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *file); err != nil {
		if ctx.Err() != nil {
			fmt.Println("\ninterrupted; both programs have been stopped")
			os.Exit(130)
		}
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, file string) (err error) {
	if _, err := os.Stat(file); err != nil {
		return fmt.Errorf("%w; choose what to share with: make run FILE=path", err)
	}
	abs, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "parley-demo-")
	if err != nil {
		return err
	}
	d := &demo{ctx: ctx, bin: filepath.Join(dir, "parley")}
	if os.PathSeparator == '\\' {
		d.bin += ".exe"
	}
	defer func() { err = errors.Join(err, d.stopAll(), os.RemoveAll(dir)) }()
	build := exec.CommandContext(ctx, "go", "build", "-o", d.bin, "github.com/parley-bt/parley/cmd/parley")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the parley command: %w\n%s", err, out)
	}
	bobDir := filepath.Join(dir, "bob")
	copied := filepath.Join(bobDir, filepath.Base(abs))

	d.say(`Two people use Parley on this machine. Alice has %s and shares it; Bob fetches it and talks to her. Everything stays on
loopback. The lines with a $ are the commands that really run; you can type them too.`, file)

	d.step("Alice shares the file, and listens for messages")
	d.say(`With --type she says which messages she takes; with --echo her program sends each back to whoever sent it. It prints one
JSON object for everything that happens, of which some fields are shown here.`)
	alice, err := d.start("alice", "listen", file, "--json", "--type", messageType, "--echo", "--listen", "127.0.0.1:0")
	if err != nil {
		return err
	}
	at, err := alice.listening()
	if err != nil {
		return err
	}
	d.say(`The magnet link is all that others need to know of the file. Its long number is a hash of the content: whoever fetches it
can tell every wrong byte from a right one, no matter who sends it.`)

	d.step("Bob fetches it, knowing the link and Alice's address")
	if err := d.finish("bob", "get", at.Magnet, "--peer", at.addr(), "-o", bobDir); err != nil {
		return err
	}
	if err := d.compare(abs, copied); err != nil {
		return err
	}

	d.step("Bob says something to Alice")
	d.say(`The message travels over the same kind of connection as the file. Both programs are Parley's, so it goes in the frames of
EMP/1, with flow control; to another BitTorrent program it would be a BEP 10 extension message. Bob waits for one answer.`)
	if err := d.finish("bob", "send", at.Magnet, "--type", messageType, "Thanks for the file, Alice!", "--peer", at.addr(), "--wait", "10s", "--answers", "1"); err != nil {
		return err
	}
	if _, err := alice.wait("the message", func(l line) bool { return l.Event == "message" }); err != nil {
		return err
	}

	d.step("And the other way round: Bob listens, Alice sends")
	d.say(`Bob shares his copy now. The same content gives the same link, so he is in the same swarm, where all are equal.`)
	bob, err := d.start("bob", "listen", copied, "--json", "--type", messageType, "--listen", "127.0.0.1:0")
	if err != nil {
		return err
	}
	bobAt, err := bob.listening()
	if err != nil {
		return err
	}
	if bobAt.Magnet != at.Magnet {
		return fmt.Errorf("the link %s of Bob's copy is not that of Alice's file", bobAt.Magnet)
	}
	if err := d.finish("alice", "send", file, "--type", messageType, "You are welcome, Bob.", "--peer", bobAt.addr()); err != nil {
		return err
	}
	if _, err := bob.wait("the message", func(l line) bool { return l.Event == "message" }); err != nil {
		return err
	}

	d.step("Both press Ctrl-C")
	d.say(`That is how listening ends. The last line says how many sessions there were with peers, and what was exchanged.`)
	d.print("")
	if err := d.stopAll(); err != nil {
		return err
	}
	d.say(`That was all. What to try next:

  make run FILE=some/folder          the same with something of yours
  make build                         leaves the program in bin/parley
  bin/parley seed FILE               share it for real; any BitTorrent client can open the magnet link
  bin/parley listen FILE --type t    in one terminal, and in another:
  bin/parley send FILE --type t 'Hi' --peer 127.0.0.1:PORT
  bin/parley help                    every command; "parley help events" explains the JSON lines above
  docs/spec/emp1.md                  what travels between the two, byte by byte`)
	return nil
}

// A demo runs the commands and tells the story.
type demo struct {
	ctx     context.Context
	bin     string
	steps   int
	printMu sync.Mutex
	running []*program
}

func (d *demo) print(s string) {
	d.printMu.Lock()
	defer d.printMu.Unlock()
	fmt.Println(s)
}

func (d *demo) say(format string, args ...any) { d.print("\n" + fmt.Sprintf(format, args...)) }

func (d *demo) step(title string) {
	d.steps++
	d.print(fmt.Sprintf("\n%d. %s", d.steps, title))
}

// A line is one JSON line of a program's output, as far as the demonstration is interested.
type line struct {
	Event   string   `json:"event"`
	Type    string   `json:"type,omitempty"`
	Peer    string   `json:"peer,omitempty"`
	Client  string   `json:"client,omitempty"`
	Payload string   `json:"payload,omitempty"`
	Addrs   []string `json:"addrs,omitempty"`
	Magnet  string   `json:"magnet,omitempty"`
	Error   string   `json:"error,omitempty"`

	Sessions int   `json:"sessions,omitempty"` // of "stopped"
	Uploaded int64 `json:"uploaded,omitempty"`
	Messages int64 `json:"messages,omitempty"`
}

// shortened returns the line as it is shown: without the fields, and without the events, that only distract here.
func (l line) shortened() string {
	switch l.Event {
	case "verified", "complete", "progress", "peer_types", "closed":
		return ""
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // links are full of ampersands
	if err := enc.Encode(l); err != nil {
		return "" // strings always encode
	}
	return strings.TrimSpace(b.String())
}

// addr returns where the program can be dialled.
func (l line) addr() string { return l.Addrs[0] }

// A program is one command while it runs.
type program struct {
	who   string
	cmd   *exec.Cmd
	lines chan line
	done  chan struct{} // closed when the program has ended and err is set
	err   error

	killed atomic.Bool // it could not be interrupted
}

// start runs a command of one of the two and prints its output as it comes.
func (d *demo) start(who string, args ...string) (*program, error) {
	quoted := slices.Clone(args)
	for i, a := range quoted {
		if strings.ContainsAny(a, " &?'!") {
			quoted[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	d.print("\n   $ parley " + strings.Join(quoted, " "))
	p := &program{who: who, cmd: exec.CommandContext(d.ctx, d.bin, args...), lines: make(chan line, 1024), done: make(chan struct{})}
	p.cmd.Cancel = p.interrupt
	p.cmd.WaitDelay = 3 * time.Second
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	d.running = append(d.running, p)
	var readers sync.WaitGroup
	readers.Go(func() { d.show(p, stdout) })
	readers.Go(func() { d.show(p, stderr) })
	go func() {
		readers.Wait()
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// show prints a program's output. Parley escapes what strangers said, so the lines are safe for a terminal.
func (d *demo) show(p *program, r io.Reader) {
	br := bufio.NewReader(r)
	for {
		text, err := br.ReadString('\n')
		if text = strings.TrimRight(text, "\r\n"); text != "" {
			var l line
			known := json.Unmarshal([]byte(text), &l) == nil
			if known {
				text = l.shortened()
			}
			if short := []rune(text); len(short) > columns {
				text = string(short[:columns-1]) + "…"
			}
			if text != "" {
				d.print(fmt.Sprintf("   %-5s | %s", p.who, text))
			}
			if known { // told only now, so that what it leads to is printed below it
				select {
				case p.lines <- l:
				default: // nobody waits for any of a thousand lines
				}
			}
		}
		if err != nil {
			return
		}
	}
}

// interrupt does what Ctrl-C does, where a program can do that to another.
func (p *program) interrupt() error {
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.killed.Store(true)
		return p.cmd.Process.Kill()
	}
	return nil
}

// wait waits for a JSON line that match accepts.
func (p *program) wait(what string, match func(line) bool) (line, error) {
	timeout := time.After(patience)
	for {
		select {
		case l := <-p.lines:
			if match(l) {
				return l, nil
			}
		case <-p.done:
			return line{}, fmt.Errorf("%s's program ended before %s: %w", p.who, what, cmpErr(p.err))
		case <-timeout:
			return line{}, fmt.Errorf("%s: %s did not come within %v", p.who, what, patience)
		}
	}
}

// cmpErr names the lack of an error.
func cmpErr(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return err
}

// listening waits until the program says where it can be reached.
func (p *program) listening() (line, error) {
	return p.wait("it was listening", func(l line) bool { return l.Event == "listening" && l.Magnet != "" && len(l.Addrs) > 0 })
}

// finish runs a command and waits until it has ended well.
func (d *demo) finish(who string, args ...string) error {
	p, err := d.start(who, args...)
	if err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(patience):
		return fmt.Errorf("%s: parley %s: not finished after %v", who, args[0], patience)
	}
	if p.err != nil {
		return fmt.Errorf("%s: parley %s: %w", who, args[0], p.err)
	}
	return nil
}

// stopAll interrupts what still runs and waits for it.
func (d *demo) stopAll() error {
	var errs []error
	for _, p := range d.running {
		select {
		case <-p.done:
			continue
		default:
		}
		if err := p.interrupt(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.who, err))
		}
		select {
		case <-p.done:
			if p.err != nil && !p.killed.Load() {
				errs = append(errs, fmt.Errorf("%s's program, interrupted: %w", p.who, p.err))
			}
		case <-time.After(5 * time.Second):
			errs = append(errs, fmt.Errorf("%s's program did not end when interrupted", p.who), p.cmd.Process.Kill())
			<-p.done
		}
	}
	d.running = nil
	return errors.Join(errs...)
}

// compare checks that Bob has, byte for byte, what Alice shares.
func (d *demo) compare(shared, copied string) error {
	want, n, err := hashTree(shared)
	if err != nil {
		return err
	}
	got, _, err := hashTree(copied)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("the copy differs: SHA-256 %s, of Alice's file %s", got, want)
	}
	d.print(fmt.Sprintf("\n   Bob's copy: %d bytes, SHA-256 %s…, the same as Alice's", n, want[:16]))
	return nil
}

// hashTree returns the SHA-256 over the names and contents of the regular files at or below root, and their size.
func hashTree(root string) (string, int64, error) {
	all := sha256.New()
	var total int64
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		n, err := io.Copy(h, f)
		if err != nil {
			return err
		}
		total += n
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		var entry bytes.Buffer
		fmt.Fprintf(&entry, "%q %x\n", filepath.ToSlash(rel), h.Sum(nil))
		all.Write(entry.Bytes())
		return nil
	})
	return hex.EncodeToString(all.Sum(nil)), total, err
}
