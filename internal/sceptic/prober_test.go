package sceptic

import (
	"bytes"

	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/internal/gate"
	"github.com/parley-bt/parley/internal/peerconn"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/obfs/veil"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
)

// probes is how many connections are made for each thing that can be wrong: fewer than may drain at once.
const probes = 240

// A probe is one thing that can be wrong.
type probe struct {
	name   string
	accept wire.Hellos
	// play does it. It returns as soon as it has nothing more to write.
	play func(p *prober)
	// busy says that no work may be done for hellos: who asks is turned away after 4 s.
	busy bool
}

// other is a torrent that nobody serves.
var other = veil.Secret([]byte("another info-hash...."))

const (
	all      = wire.AllHellos
	noPlain  = all &^ (1 << wire.HelloPlaintext)
	noMSE    = all &^ (1 << wire.HelloMSE)
	noVeil   = all &^ (1 << wire.HelloVeil)
	onlyVeil = wire.Hellos(1 << wire.HelloVeil)
)

func plaintextHello(infoHash [20]byte) []byte {
	return classic.AppendHello(nil, classic.Hello{Reserved: rawpeer.LTEP, InfoHash: infoHash, PeerID: [20]byte{'p'}})
}

func sends(n int) func(p *prober) { return func(p *prober) { p.write(random(p.rng, n)) } }

// veil begins with 96 bytes of a veiled hello.
func (p *prober) veil(secret veil.Secret, plain []byte) *veiled {
	v := newVeiled(p.rng, secret, plain)
	p.write(v.hello)
	return v
}

// veilOpens makes a veiled hello and waits for its answer.
func (p *prober) veilOpens() *veiled {
	pad := int(random(p.rng, 1)[0])
	v := p.veil(ih, plainHello(1, pad))
	p.write(random(p.rng, pad))
	b := p.need(veil.AnswerBytes)
	padlen := v.answered(b)
	p.need(veil.AnswerBytes + padlen)
	return v
}

// mse begins an MSE handshake, waits for Yb and goes on as o says.
func (p *prober) mse(o third) {
	m := newMSE(p.rng)
	p.write(append(m.ya, random(p.rng, 100)...))
	p.write(m.third(p.need(96), o))
}

// session makes a session, in which both exchanges have come, and waits until 3 s after the start.
func (p *prober) session() *veiled {
	v := p.veilOpens()
	p.write(v.out.seal(exchangeFrame(), 7))
	p.until(2 * time.Second)
	p.write(v.out.seal(appFrame(0, 100), 0))
	p.until(3 * time.Second)
	return v
}

// The classes. Within each it must not show what was wrong.
var classes = []struct {
	name      string
	flights   int
	low, high time.Duration // of the close
	from      time.Duration // which is counted from here
	probes    []probe
}{
	{"under 96 bytes", 0, 15 * time.Second, 30 * time.Second, 0, []probe{
		{name: "nothing", accept: all, play: func(*prober) {}},
		{name: "1 byte", accept: all, play: sends(1)},
		{name: "19 bytes of a plaintext hello", accept: all, play: func(p *prober) { p.write(plaintextHello(ih)[:19]) }},
		{name: "20 bytes of a plaintext hello", accept: all, play: func(p *prober) { p.write(plaintextHello(ih)[:20]) }},
		{name: "47 bytes of a plaintext hello", accept: all, play: func(p *prober) { p.write(plaintextHello(ih)[:47]) }},
		{name: "19 bytes of a plaintext hello and 70 others", accept: all, play: func(p *prober) { p.write(append(append(plaintextHello(ih)[:19], 'L'), random(p.rng, 70)...)) }},
		{name: "a plaintext hello that is refused", accept: noPlain, play: func(p *prober) { p.write(plaintextHello(ih)) }},
		{name: "95 random bytes", accept: all, play: sends(95)},
		{name: "95 random bytes, veil only", accept: onlyVeil, play: sends(95)},
		{name: "95 bytes of a veiled hello", accept: all, play: func(p *prober) { p.write(newVeiled(p.rng, ih, plainHello(1, 0)).hello[:95]) }},
		{name: "95 bytes of Ya, one at a time", accept: all, play: func(p *prober) {
			for _, b := range newMSE(p.rng).ya[:95] {
				p.write([]byte{b})
				time.Sleep(100 * time.Millisecond)
			}
		}},
	}},
	{"96 bytes or more that do not open", 1, 15 * time.Second, 30 * time.Second, 0, []probe{
		{name: "96 random bytes", accept: all, play: sends(96)},
		{name: "96 random bytes, no MSE", accept: noMSE, play: sends(96)},
		{name: "96 random bytes, no veil", accept: noVeil, play: sends(96)},
		{name: "96 random bytes, only veil", accept: onlyVeil, play: sends(96)},
		{name: "96 random bytes, nothing else is taken", accept: wire.Hellos(1 << wire.HelloMSE), play: sends(96)},
		{name: "608 random bytes", accept: all, play: sends(608)},
		{name: "608 random bytes, no MSE", accept: noMSE, play: sends(608)},
		{name: "5,000 random bytes", accept: all, play: sends(5000)},
		{name: "random bytes all the time", accept: all, play: func(p *prober) {
			for range 100 {
				p.write(random(p.rng, 100))
				time.Sleep(100 * time.Millisecond)
			}
		}},
		{name: "a refused plaintext hello and more", accept: noPlain, play: func(p *prober) { p.write(append(plaintextHello(ih), random(p.rng, 200)...)) }},
		{name: "IV and TAG are right, the box is not", accept: all, play: func(p *prober) {
			v := newVeiled(p.rng, ih, plainHello(1, 0))
			v.hello[90] ^= 1
			p.write(v.hello)
		}},
		{name: "IV and TAG are right, the key is not", accept: all, play: func(p *prober) {
			v := newVeiled(p.rng, ih, plainHello(1, 0))
			v.hello[40] ^= 1
			p.write(v.hello)
		}},
		{name: "IV and TAG of another's hello, no MSE", accept: noMSE, play: func(p *prober) {
			p.write(append(newVeiled(p.rng, ih, plainHello(1, 0)).hello[:36], random(p.rng, 300)...))
		}},
		{name: "version 0", accept: all, play: func(p *prober) { p.veil(ih, plainHello(0, 0)) }},
		{name: "version 0, no MSE", accept: noMSE, play: func(p *prober) { p.veil(ih, plainHello(0, 0)) }},
		{name: "padlen 513", accept: all, play: func(p *prober) { p.veil(ih, plainHello(1, 513)); p.write(random(p.rng, 513)) }},
		{name: "a hello for a torrent that is not served", accept: all, play: func(p *prober) { p.veil(other, plainHello(1, 0)) }},
		{name: "the same, no MSE", accept: noMSE, play: func(p *prober) { p.veil(other, plainHello(1, 0)) }},
		{name: "a veiled hello where the veil is refused", accept: noVeil, play: func(p *prober) { p.veil(ih, plainHello(1, 50)); p.write(random(p.rng, 50)) }},
		{name: "Ya is 0", accept: all, play: func(p *prober) { p.write(make([]byte, 300)) }},
		{name: "Ya is 1", accept: all, play: func(p *prober) { p.write(append(append(make([]byte, 95), 1), random(p.rng, 700)...)) }},
		{name: "Ya is P", accept: all, play: func(p *prober) { p.write(append(p768.Bytes(), random(p.rng, 700)...)) }},
		{name: "MSE and nothing after Ya", accept: all, play: func(p *prober) { p.write(newMSE(p.rng).ya) }},
		{name: "MSE and no req1", accept: all, play: func(p *prober) { p.write(newMSE(p.rng).ya); p.need(96); p.write(random(p.rng, 700)) }},
		{name: "MSE for another torrent", accept: all, play: func(p *prober) { p.mse(third{skey: other, provide: 3, ia: plaintextHello(other)}) }},
		{name: "MSE with a bad VC", accept: all, play: func(p *prober) { p.mse(third{skey: ih, vc: [8]byte{7: 1}, provide: 3, ia: plaintextHello(ih)}) }},
		{name: "MSE that provides nothing", accept: all, play: func(p *prober) { p.mse(third{skey: ih, provide: 0, ia: plaintextHello(ih)}) }},
		{name: "MSE that provides what there is not", accept: all, play: func(p *prober) { p.mse(third{skey: ih, provide: 4, ia: plaintextHello(ih)}) }},
		{name: "MSE with a PadC of 513", accept: all, play: func(p *prober) { p.mse(third{skey: ih, provide: 3, padC: 513, ia: plaintextHello(ih)}) }},
		{name: "MSE with a PadC of 65,535", accept: all, play: func(p *prober) { p.mse(third{skey: ih, provide: 3, padC: 65535}) }},
	}},
	{"over budget", 0, 15 * time.Second, 30 * time.Second, 0, []probe{
		{name: "96 random bytes", accept: all, play: sends(96), busy: true},
		{name: "5,000 random bytes", accept: all, play: sends(5000), busy: true},
		{name: "MSE", accept: all, play: func(p *prober) { p.write(newMSE(p.rng).ya) }, busy: true},
		{name: "MSE, no veil", accept: noVeil, play: func(p *prober) { p.write(newMSE(p.rng).ya) }, busy: true},
		{name: "a hello that would open", accept: all, play: func(p *prober) { p.veil(ih, plainHello(1, 300)); p.write(random(p.rng, 300)) }, busy: true},
		{name: "95 bytes", accept: all, play: sends(95), busy: true},
	}},
	// Who knows a torrent and MSE sees step 4 (section 2); what is wrong behind that is not shown.
	{"MSE, and what is in it is not right", 2, 15 * time.Second, 30 * time.Second, 0, []probe{
		{name: "nothing in it", accept: all, play: func(p *prober) { p.mse(third{skey: ih, provide: 2}) }},
		{name: "noise", accept: all, play: func(p *prober) { p.mse(third{skey: ih, provide: 2, ia: random(p.rng, 68)}) }},
		{name: "noise, in plaintext", accept: all, play: func(p *prober) { p.mse(third{skey: ih, provide: 1, ia: random(p.rng, 68)}) }},
		{name: "half a hello", accept: all, play: func(p *prober) { p.mse(third{skey: ih, provide: 2, ia: plaintextHello(ih), noIA: 34}) }},
		{name: "another torrent's hello", accept: all, play: func(p *prober) { p.mse(third{skey: ih, provide: 2, padC: 512, ia: plaintextHello(other)}) }},
		{name: "noise after it", accept: all, play: func(p *prober) {
			p.mse(third{skey: ih, provide: 2})
			p.until(3 * time.Second)
			p.write(random(p.rng, 1000))
		}},
	}},
	{"a hello that opens, and a first record that does not", 1, 15 * time.Second, 30 * time.Second, 0, []probe{
		{name: "nothing after the hello", accept: all, play: func(p *prober) { p.veil(ih, plainHello(1, 0)) }},
		{name: "a part of PAD_i", accept: all, play: func(p *prober) { p.veil(ih, plainHello(1, 512)); p.write(random(p.rng, 100)) }},
		{name: "a replay, as it was recorded", accept: all, play: func(p *prober) {
			p.veil(ih, plainHello(1, 5)) // whose rest, the old session's records, is no better than noise
			p.write(random(p.rng, 5+400))
		}},
		{name: "noise", accept: all, play: func(p *prober) { p.veilOpens(); p.write(random(p.rng, 70_000)) }},
		{name: "a record of another number", accept: all, play: func(p *prober) {
			v := p.veilOpens()
			v.out.n = 1
			p.write(v.out.seal(exchangeFrame(), 0))
			p.write(random(p.rng, 66_000))
		}},
		{name: "half a record", accept: all, play: func(p *prober) { v := p.veilOpens(); p.write(v.out.seal(exchangeFrame(), 100)[:90]) }},
		{name: "a record with a bit changed", accept: all, play: func(p *prober) {
			v := p.veilOpens()
			b := v.out.seal(exchangeFrame(), 100)
			b[50] ^= 4
			p.write(b)
		}},
		{name: "LEN too small", accept: all, play: func(p *prober) { v := p.veilOpens(); p.write(append(v.out.maskLen(17), random(p.rng, 17)...)) }},
		{name: "padlen too large", accept: all, play: func(p *prober) { v := p.veilOpens(); p.write(v.out.raw([]byte{1, 0, 5})) }},
		{name: "empty records", accept: all, play: func(p *prober) {
			v := p.veilOpens()
			for range 40 {
				p.write(v.out.seal(nil, 20))
			}
		}},
		{name: "late noise", accept: all, play: func(p *prober) { p.veilOpens(); p.until(12 * time.Second); p.write(random(p.rng, 70_000)) }},
	}},
	{"an established session", 2, 5 * time.Second, 30 * time.Second, 3 * time.Second, []probe{
		{name: "noise", accept: all, play: func(p *prober) { p.session(); p.write(random(p.rng, 70_000)) }},
		{name: "a record with a bit changed", accept: all, play: func(p *prober) {
			b := p.session().out.seal(appFrame(1, 300), 0)
			b[200] ^= 1
			p.write(b)
		}},
		{name: "the last bit of a record changed", accept: all, play: func(p *prober) {
			b := p.session().out.seal(appFrame(1, 300), 0)
			b[len(b)-1] ^= 0x80
			p.write(b)
		}},
		{name: "a record again", accept: all, play: func(p *prober) {
			v := p.session()
			b := v.out.seal(appFrame(1, 300), 0)
			p.write(append(bytes.Clone(b), b...))
			p.write(random(p.rng, 66_000)) // its LEN is another this time, which may be a long one
		}},
		{name: "a record left out", accept: all, play: func(p *prober) {
			v := p.session()
			v.out.n++
			p.write(append(v.out.seal(appFrame(1, 300), 0), random(p.rng, 66_000)...))
		}},
		{name: "LEN too small", accept: all, play: func(p *prober) { p.write(p.session().out.maskLen(17)) }},
		{name: "LEN 0", accept: all, play: func(p *prober) { p.write(p.session().out.maskLen(0)) }},
		{name: "padlen too large", accept: all, play: func(p *prober) { p.write(p.session().out.raw([]byte{0, 9, 1, 2, 3, 4, 5, 6, 7, 8})) }},
		{name: "17 empty records", accept: all, play: func(p *prober) {
			v := p.session()
			for range 17 {
				p.write(v.out.seal(nil, 3))
			}
		}},
		{name: "our own record back", accept: all, play: func(p *prober) {
			p.session()
			b := p.need(0)
			p.write(append(bytes.Clone(b[len(b)-60:]), random(p.rng, 66_000)...))
		}},
	}},
}

// seen is what a prober saw.
type seen struct {
	sent, closed []float64
	flights      map[int]int
}

// play runs a probe over connections of one host. If ends is not 0, the prober ends its stream then.
func play(t *testing.T, seed byte, pr probe, n int, ends time.Duration) (s seen) {
	s.flights = map[int]int{}
	synctest.Test(t, func(t *testing.T) {
		h := newHosts()
		if pr.busy {
			h.scan = func(*peerconn.Conn) error { time.Sleep(4 * time.Second); return gate.ErrOverBudget }
			h.key = h.scan
		}
		var run sync.WaitGroup
		var all []*prober
		for i := range n {
			a, b := pipe(uint64(i))
			p := newProber(a, seeded(seed, 2*i))
			all = append(all, p)
			h.accept(b, pr.accept, seeded(seed, 2*i+1))
			run.Go(p.listen)
			run.Go(func() { pr.play(p) })
			if ends != 0 {
				run.Go(func() {
					p.until(ends)
					a.(interface{ CloseWrite() error }).CloseWrite()
				})
			}
		}
		run.Wait()
		h.close()
		for _, p := range all {
			s.sent = append(s.sent, float64(len(p.got)))
			s.closed = append(s.closed, (p.closed - latency).Seconds())
			s.flights[p.flights]++
			if p.early {
				t.Errorf("%s: an answer before 96 bytes were there", pr.name)
			}
		}
	})
	return s
}

// TestProberSeesNothing plays, for each class of failure, everything that can be wrong, and compares what a prober sees: how much comes, in how many flights, and when the connection is closed. Within a
// class all of it is the same distribution, whatever was wrong.
//
// All of it is seeded but the 5..30 s after which what was a session closes: those tests may fail by chance, in one run of ten million.
func TestProberSeesNothing(t *testing.T) {
	n := probes
	if testing.Short() || raceEnabled {
		n = 40
	}
	tests := 0
	for _, class := range classes {
		tests += 3 * len(class.probes)
	}
	level := alpha / float64(tests)
	for c, class := range classes {
		t.Run(class.name, func(t *testing.T) {
			var first seen
			worst := [3]float64{1, 1, 1}
			for i, pr := range class.probes {
				s := play(t, byte(c*37+i), pr, n, 0)
				if s.flights[class.flights] != n {
					t.Errorf("%s: so many flights, so often: %v; want always %d", pr.name, s.flights, class.flights)
				}
				low, high := (class.from + class.low).Seconds(), (class.from + class.high).Seconds()
				if class.from > 0 {
					low, high = low+latency.Seconds(), high+latency.Seconds() // from when the bytes were there
				}
				for _, at := range s.closed {
					if at < low-0.001 || at > high+0.001 {
						t.Fatalf("%s: closed after %v s, want %v..%v", pr.name, at, low, high)
					}
				}
				p := [3]float64{UniformBetween(s.closed, low, high), 1, 1}
				if i == 0 {
					first = s
				} else {
					p[1], p[2] = TwoSamples(s.closed, first.closed), TwoSamples(s.sent, first.sent)
				}
				for k, what := range []string{"the time of the close is not uniform", "the time of the close differs", "how much is sent differs"} {
					worst[k] = min(worst[k], p[k])
					if p[k] < level {
						t.Errorf("%s: %s from that of %q: p %.3g, α %.3g", pr.name, what, class.probes[0].name, p[k], level)
					}
				}
				if class.flights == 0 && s.sent[0] != 0 {
					t.Errorf("%s: bytes were sent", pr.name)
				}
			}
			t.Logf("%d probes of %d connections; smallest p: close uniform %.3g, close against the first %.3g, bytes %.3g; α %.3g each",
				len(class.probes), n, worst[0], worst[1], worst[2], level)
		})
	}
}

// TestProberTestBites checks that the comparison finds responders that are not quiet: one that closes a second early when it knows what was wrong, one whose answer is as long as that of a veil
// whose PAD_r is 0..512, one that has a deadline of its own.
func TestProberTestBites(t *testing.T) {
	class := classes[1]
	first := play(t, 200, class.probes[0], probes, 0)
	change := func(v []float64, f func(float64) float64) (w []float64) {
		for _, x := range v {
			w = append(w, f(x))
		}
		return w
	}
	second := play(t, 201, class.probes[5], probes, 0)
	rng := rand.New(seeded(9, 9))
	for name, p := range map[string]float64{
		"closes 6 s early":     TwoSamples(first.closed, change(second.closed, func(x float64) float64 { return x - 6 })),
		"5..30 s":              TwoSamples(first.closed, change(second.closed, func(float64) float64 { return 5 + 25*rng.Float64() })),
		"closes at once":       TwoSamples(first.closed, change(second.closed, func(float64) float64 { return 0.02 })),
		"no padding":           TwoSamples(first.sent, change(second.sent, func(float64) float64 { return 96 })),
		"200 bytes are absent": TwoSamples(first.sent, change(second.sent, func(x float64) float64 { return x - 200 })),
	} {
		if p >= alpha/1000 {
			t.Errorf("%s: not found, p %.3g", name, p)
		}
	}
	if p := TwoSamples(first.closed, second.closed); p < alpha {
		t.Errorf("unchanged: p %.3g", p)
	}
}

// TestEndOfStreamCloses checks that whatever was sent, the end of the prober's stream closes the connection, at that moment (section 2).
func TestEndOfStreamCloses(t *testing.T) {
	const ends = 13 * time.Second
	for c, class := range classes {
		for i, pr := range class.probes {
			s := play(t, byte(c*37+i), pr, 4, ends)
			for _, at := range s.closed {
				if want := (ends + latency).Seconds(); class.from == 0 && at != want || at > want {
					t.Errorf("%s, %s: closed after %v s, want %v", class.name, pr.name, at, want)
				}
			}
		}
	}
}

// TestNothingBefore96Bytes feeds each opening the first 95 bytes, waits, and then the 96th: the answer comes with that.
func TestNothingBefore96Bytes(t *testing.T) {
	for i, head := range []func(p *prober) []byte{
		func(p *prober) []byte { return random(p.rng, 96) },
		func(p *prober) []byte { return newMSE(p.rng).ya },
		func(p *prober) []byte { return newVeiled(p.rng, ih, plainHello(1, 0)).hello },
		func(p *prober) []byte { return append(append(plaintextHello(ih)[:19], 'L'), random(p.rng, 76)...) },
	} {
		for _, accept := range []wire.Hellos{all, noMSE, noPlain, noVeil, onlyVeil} {
			synctest.Test(t, func(t *testing.T) {
				h := newHosts()
				a, b := pipe(1)
				p := newProber(a, seeded('9', i))
				h.accept(b, accept, seeded('9', 100+i))
				var run sync.WaitGroup
				run.Go(p.listen)
				first := head(p)
				p.write(first[:95])
				time.Sleep(5 * time.Second)
				p.write(first[95:])
				run.Wait()
				h.close()
				if p.first != 5*time.Second+2*latency || len(p.got) < 96 || len(p.got) > 608 {
					t.Errorf("head %d, accepts %v: %d bytes, the first after %v", i, accept, len(p.got), p.first)
				}
			})
		}
	}

}
