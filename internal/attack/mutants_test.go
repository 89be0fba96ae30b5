package attack_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-bt/parley/internal/attack"
)

// mutant is the program without one check, and the attack that must then get through.
type mutant struct {
	file     string // below the module
	old, new string // old stands there once
	attack   string
	slow     bool // the attack is one of the simulated network, in internal/swarm
	command  bool // it is one on the command, in cmd/parley
}

var mutants = []mutant{
	{file: "peer/machine.go", old: "n > limit {\n\t\t\t\treturn Event{}, false, m.tooLarge(", new: "n > limit && kind != wire.KindPiece {\n\t\t\t\treturn Event{}, false, m.tooLarge(",
		attack: "a block larger than any asked for"},
	{file: "peer/legal.go", old: "\t\treturn wire.MaxEarlyBitfield\n", new: "\t\treturn 1 << 30\n", attack: "a bitfield of 2 MiB + 1 before the metadata"},
	{file: "bitfield/bitfield.go", old: "if n%8 != 0 && wire[len(wire)-1]<<(n%8) != 0 {", new: "if false {", attack: "a bitfield with spare bits"},
	{file: "peer/phase_open.go", old: "if m.geom.Known() && int64(i) >= int64(m.geom.NumPieces()) {", new: "if m.geom.Known() && int64(i) > int64(m.geom.NumPieces()) {",
		attack: "suggestions and allowances out of range"},
	{file: "peer/phase_open.go", old: "if m.geom.Known() && !m.geom.Contains(b) {", new: "if false {", attack: "a request beyond the last piece"},
	{file: "peer/phase_open.go", old: "if m.amChoking || !m.geom.Known()", new: "if !m.geom.Known()", attack: "requests while choked"},
	{file: "peer/phase_open.go", old: "m.quietFrames > wire.MaxIdleFrames {", new: "false {", attack: "keep-alives without end"},
	{file: "peer/phase_open.go", old: "m.answerBytes > wire.MaxControlBacklog {", new: "false {", attack: "requests while choked, unread"},
	{file: "peer/phase_open.go", old: "m.exchangesIn > wire.MaxExchanges {", new: "false {", attack: "exchanges without end"},
	{file: "peer/phase_open.go", old: "if uint32(len(e.Payload)) >= limit {", new: "if false {", attack: "a message too large"},
	{file: "peer/machine.go", old: "if m.peerID == m.cfg.PeerID {", new: "if false {", attack: "hello with the client's own peer ID"},
	{file: "wire/classic/frame.go", old: "if len(p) != 2 {", new: "if len(p) < 2 {", attack: "one byte too many under every sized id"},
	{file: "internal/swarm/pieces.go", old: "p.unwanted > unwantedLimit {", new: "false {", attack: "unrequested blocks"},
	{file: "internal/swarm/blame.go", old: "\t\tt.convict(o, fmt.Errorf(\"%w: piece %d\", peer.ErrCorruptPiece, a.index))\n", new: "", attack: "corrupt blocks"},
	{file: "internal/swarm/metadata.go", old: "\tif !right {\n", new: "\tif !right {\n\t\tt.refuseMetadata(p)\n\t\treturn\n", attack: "poisoned metadata"},
	{file: "internal/messaging/peer.go", old: "for p.used.Load() > int64(p.hub.o.QueueBytes) &&", new: "for false &&", attack: "messages for a slow handler"},
	{file: "internal/swarm/duplicate.go", old: "\tif !sameAddr {\n", new: "\tif !sameAddr {\n\t\treturn keepNew\n", attack: "a stranger with the peer ID of somebody who is connected"},
	{file: "internal/swarm/dial.go", old: "\treturn t.cfg.MaxPerNear\n", new: "\treturn 0\n", attack: "a hundred sessions from one address"},
	{file: "internal/dialguard/targets.go", old: "len(dials) < DialsPerTarget", new: "len(dials) < 1000", attack: "peer exchange that names one host on 50 ports, again and again"},
	{file: "peer/timers.go", old: "if late || m.awaitsFirstAnswer()", new: "if late {\n\t\t\tm.started = now\n\t\t} else if m.awaitsFirstAnswer()", attack: "nothing at all", slow: true},
	{file: "peer/timers.go", old: "if !now.Before(m.lastRecv.Add(IdleTimeout)) {", new: "if !now.Before(m.lastRecv.Add(IdleTimeout)) {\n\t\t\tm.lastRecv = now\n\t\t}\n\t\tif false {", attack: "nothing after the hello", slow: true},
	{file: "peer/timers.go", old: "if len(m.partial) > 0 && !now.Before(m.partialSince.Add(FrameTimeout)) {",
		new: "if len(m.partial) > 0 && !now.Before(m.partialSince.Add(FrameTimeout)) {\n\t\t\tm.partialSince = now\n\t\t}\n\t\tif false {", attack: "a frame of 1 MiB, a byte a minute", slow: true},
	{file: "internal/peerconn/conn.go", old: "if !c.writeSince.IsZero() && !now.Before(c.writeSince.Add(writeStall)) {",
		new: "if !c.writeSince.IsZero() && !now.Before(c.writeSince.Add(writeStall)) {\n\t\tc.writeSince = now\n\t}\n\tif false {", attack: "500 requests and then no reading", slow: true},
	{file: "internal/swarm/metadata.go", old: "case f.active && now.Sub(f.began) > metaShare && t.freshMetadata():", new: "case false:",
		attack: "metadata of 32 MiB, a piece every ten seconds", slow: true},
	{file: "peer/phase_open.go", old: "m.metaSent >= m.metaLimit {", new: "false {", attack: "metadata downloaded again and again, under a limit"},
	{file: "internal/swarm/hashes.go", old: "\t\tt.convict(p.from(), fmt.Errorf(\"%w: %d of layer %d from %d\", peer.ErrCorruptHashes, a.r.Length, a.r.Base, a.r.Index))\n", new: "", attack: "a piece layer of lies"},
	{file: "internal/swarm/super.go", old: "\treturn now.Sub(sp.fetched) >= superIdle && slices.ContainsFunc(sp.due, func(d reveal) bool { return !d.got && now.Sub(d.since) >= superIdle })\n",
		new: "\t_ = slices.Index[[]int]\n\treturn false\n", attack: "nothing fetched of what a super-seed shows", slow: true},
	{file: "cmd/parley/internal/term/term.go", old: "func Escape(s string) string {\n", new: "func Escape(s string) string {\n\tif s != \"\" {\n\t\treturn s\n\t}\n", attack: "control characters",
		command: true},
	{file: "peer/mux_in.go", old: "if x == nil || !x.active {\n\t\treturn m.muxError(ErrTooEarly,", new: "if x == nil {\n\t\treturn m.muxError(ErrTooEarly,", attack: "emp: mux frames before the exchanges"},
	{file: "wire/emp/frame.go", old: "case uint64(len(b)) > uint64(f.Total):", new: "case false:", attack: "emp: malformed mux frames"},
	{file: "peer/mux_in.go", old: "if uint64(f.ID) != x.nextIn {", new: "if uint64(f.ID) < x.nextIn {", attack: "emp: ids out of order, and two messages of a type at once"},
	{file: "peer/mux_in.go", old: "if x.opened[f.Type/64]>>(f.Type%64)&1 != 0 {", new: "if false {", attack: "emp: ids out of order, and two messages of a type at once"},
	{file: "peer/mux_in.go", old: "if uint64(f.ID) >= x.nextIn {", new: "if false {", attack: "emp: frames of messages that are not open"},
	{file: "peer/mux_in.go", old: "!ever || f.Version < t.MinVersion || f.Version > t.MaxVersion", new: "!ever", attack: "emp: types and versions that were never offered"},
	{file: "peer/mux_in.go", old: "if f.Total > t.MaxLen {", new: "if false {", attack: "emp: messages over the limit of their type"},
	{file: "peer/mux_in.go", old: "if cost > x.window {", new: "if false {", attack: "emp: messages beyond the window, and windows beyond 2^31-1"},
	{file: "peer/mux_in.go", old: "x.spend > wire.MaxWindow {", new: "false {", attack: "emp: messages beyond the window, and windows beyond 2^31-1"},
	{file: "peer/mux_in.go", old: "if f.Bytes == 0 {\n\t\treturn m.quiet()", new: "if f.Bytes == 0 {\n\t\treturn nil", attack: "emp: CREDIT 0 without end"},
	{file: "peer/mux_in.go", old: "case f.Request && len(x.served)-x.past >= x.requests:", new: "case false:", attack: "emp: 30,000 requests at once, whose answers are read"},
	{file: "internal/peerconn/conn.go", old: "cfg.AnswersAtOnce = o.SendQueueBytes, answersAtOnce", new: "cfg.AnswersAtOnce = o.SendQueueBytes, 0", attack: "emp: 30,000 requests at once, whose answers are read"},
	{file: "peer/mux_in.go", old: "m.out = emp.AppendResponseHead(m.out, id, s, 0)\n\tm.endExtension(head)\n\treturn m.muxAnswered(head)", new: "m.out = emp.AppendResponseHead(m.out, id, s, 0)\n\tm.endExtension(head)\n\treturn nil",
		attack: "emp: requests above req, unread"},
	{file: "peer/mux_in.go", old: "m.out = emp.AppendStop(m.out, id, response, c)\n\tm.endExtension(head)\n\treturn m.muxAnswered(head)", new: "m.out = emp.AppendStop(m.out, id, response, c)\n\tm.endExtension(head)\n\treturn nil",
		attack: "emp: messages that are refused, unread"},
	{file: "internal/messaging/peer.go", old: "q.handling < max(q.t.spec.Parallel, 1)", new: "true", attack: "emp: requests above req"},
	{file: "internal/messaging/request.go", old: "return p.unsent.Load() <= wire.MaxUnsentResponses", new: "_ = wire.MaxUnsentResponses\n\treturn true", attack: "emp: answers that nobody reads"},
	{file: "internal/messaging/budget.go", old: "if holds+n > (b.most-used+n+holds)/4 {", new: "if used < 0 {", attack: "emp: messages for a slow handler, in two crumbs each"},
	{file: "internal/messaging/budget.go", old: "const freeBytes = 2 * wire.MinWindow", new: "const freeBytes = 0 * wire.MinWindow", attack: "emp: 1,000 peers that begin messages of 16 MiB and do not end them"},
	{file: "internal/messaging/mux.go", old: "p.hold(in.stream.need(len(data)))", new: "p.hold(int64(len(data)))", attack: "emp: messages for a slow reader, in two crumbs each"},
	{file: "internal/messaging/failures.go", old: "loud, kept := f.told < failuresTold, f.kept", new: "loud, kept := true, f.kept", attack: "emp: messages and requests that a handler fails on, without end"},
}

const moduleRoot = "../.."

// mutated returns the file without the check.
func (m mutant) mutated(t *testing.T) []byte {
	t.Helper()
	src, err := os.ReadFile(filepath.Join(moduleRoot, filepath.FromSlash(m.file)))
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(src, []byte(m.old)); n != 1 {
		t.Fatalf("%s: %q stands there %d times, want once: a check that moved takes its entry in mutants along", m.file, m.old, n)
	}
	return bytes.Replace(src, []byte(m.old), []byte(m.new), 1)
}

// Every mutant is of code that is there, and every attack it names exists.
func TestMutantsApply(t *testing.T) {
	known := map[string]bool{"control characters": true} // TestControlCharacters of cmd/parley
	for _, at := range attack.All() {
		known[at.Name] = true
	}
	for _, s := range slices.Concat(specials, empSpecials) {
		known[s.name] = true
	}
	for _, m := range mutants {
		m.mutated(t)
		if !known[m.attack] {
			t.Errorf("there is no attack %q", m.attack)
		}
	}
}

// Without its check the program must fail the test of the attack: that is what shows that the test can. PARLEY_MUTANTS says which are tried, as a regular
// expression on the attack's name; each takes a build of what depends on the file.
func TestMutants(t *testing.T) {
	pattern := os.Getenv("PARLEY_MUTANTS")
	if pattern == "" {
		t.Skip(`"make mutants" runs them`)
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs(moduleRoot)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		if !re.MatchString(m.attack) {
			continue
		}
		t.Run(m.attack, func(t *testing.T) {
			dir := t.TempDir()
			changed := filepath.Join(dir, "changed.go")
			if err := os.WriteFile(changed, m.mutated(t), 0o644); err != nil {
				t.Fatal(err)
			}
			overlay, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(root, filepath.FromSlash(m.file)): changed}})
			if err != nil {
				t.Fatal(err)
			}
			list := filepath.Join(dir, "overlay.json")
			if err := os.WriteFile(list, overlay, 0o644); err != nil {
				t.Fatal(err)
			}
			pkg, test := "./internal/attack", "TestAttacks"
			if m.slow {
				pkg, test = "./internal/swarm", "TestSlowAttacks"
			}
			name := strings.ReplaceAll(m.attack, " ", "_")
			run := "^" + test + "$/^" + regexp.QuoteMeta(name) + "$"
			test += "/" + name
			if m.command {
				pkg, test, run = "./cmd/parley", "TestControlCharacters", "^TestControlCharacters$"
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-vet=off", "-timeout=4m", "-overlay="+list, "-run="+run, pkg)
			cmd.Dir = root
			cmd.Env = append(os.Environ(), "PARLEY_MUTANTS=", "PARLEY_ATTACK_PATIENCE=4s")
			out, err := cmd.CombinedOutput()
			switch {
			case err == nil:
				t.Errorf("%s without %q: the attack gets through, and its test does not notice", m.file, m.old)
			case !bytes.Contains(out, []byte("--- FAIL: "+test)) && !bytes.Contains(out, []byte("panic: ")):
				t.Errorf("the test did not run: %v\n%s", err, out)
			default:
				t.Logf("killed: %s", firstComplaint(out))
			}
		})
	}
}

// firstComplaint returns the line of a failing test that says why.
func firstComplaint(out []byte) string {
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "_test.go:") || strings.Contains(line, "campaign.go:") || strings.HasPrefix(line, "panic: ") {
			return strings.TrimSpace(line)
		}
	}
	return "see the test"
}
