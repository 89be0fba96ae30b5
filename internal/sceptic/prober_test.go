package sceptic

import (
	"bytes"

	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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
		{"nothing", all, func(*prober) {}},
		{"1 byte", all, sends(1)},
		{"19 bytes of a plaintext hello", all, func(p *prober) { p.write(plaintextHello(ih)[:19]) }},
		{"20 bytes of a plaintext hello", all, func(p *prober) { p.write(plaintextHello(ih)[:20]) }},
		{"47 bytes of a plaintext hello", all, func(p *prober) { p.write(plaintextHello(ih)[:47]) }},
		{"19 bytes of a plaintext hello and 70 others", all, func(p *prober) { p.write(append(append(plaintextHello(ih)[:19], 'L'), random(p.rng, 70)...)) }},
		{"a plaintext hello that is refused", noPlain, func(p *prober) { p.write(plaintextHello(ih)) }},
		{"95 random bytes", all, sends(95)},
		{"95 random bytes, veil only", onlyVeil, sends(95)},
		{"95 bytes of a veiled hello", all, func(p *prober) { p.write(newVeiled(p.rng, ih, plainHello(1, 0)).hello[:95]) }},
		{"95 bytes of Ya, one at a time", all, func(p *prober) {
			for _, b := range newMSE(p.rng).ya[:95] {
				p.write([]byte{b})
				time.Sleep(100 * time.Millisecond)
			}
		}},
	}},
	{"96 bytes or more that do not open", 1, 15 * time.Second, 30 * time.Second, 0, []probe{
		{"96 random bytes", all, sends(96)},
		{"96 random bytes, no MSE", noMSE, sends(96)},
		{"96 random bytes, no veil", noVeil, sends(96)},
		{"96 random bytes, only veil", onlyVeil, sends(96)},
		{"96 random bytes, nothing else is taken", wire.Hellos(1 << wire.HelloMSE), sends(96)},
		{"608 random bytes", all, sends(608)},
		{"608 random bytes, no MSE", noMSE, sends(608)},
		{"5,000 random bytes", all, sends(5000)},
		{"random bytes all the time", all, func(p *prober) {
			for range 100 {
				p.write(random(p.rng, 100))
				time.Sleep(100 * time.Millisecond)
			}
		}},
		{"a refused plaintext hello and more", noPlain, func(p *prober) { p.write(append(plaintextHello(ih), random(p.rng, 200)...)) }},
		{"IV and TAG are right, the box is not", all, func(p *prober) {
			v := newVeiled(p.rng, ih, plainHello(1, 0))
			v.hello[90] ^= 1
			p.write(v.hello)
		}},
		{"IV and TAG are right, the key is not", all, func(p *prober) {
			v := newVeiled(p.rng, ih, plainHello(1, 0))
			v.hello[40] ^= 1
			p.write(v.hello)
		}},
		{"IV and TAG of another's hello, no MSE", noMSE, func(p *prober) {
			p.write(append(newVeiled(p.rng, ih, plainHello(1, 0)).hello[:36], random(p.rng, 300)...))
		}},
		{"version 0", all, func(p *prober) { p.veil(ih, plainHello(0, 0)) }},
		{"version 0, no MSE", noMSE, func(p *prober) { p.veil(ih, plainHello(0, 0)) }},
		{"padlen 513", all, func(p *prober) { p.veil(ih, plainHello(1, 513)); p.write(random(p.rng, 513)) }},
		{"a hello for a torrent that is not served", all, func(p *prober) { p.veil(other, plainHello(1, 0)) }},
		{"the same, no MSE", noMSE, func(p *prober) { p.veil(other, plainHello(1, 0)) }},
		{"a veiled hello where the veil is refused", noVeil, func(p *prober) { p.veil(ih, plainHello(1, 50)); p.write(random(p.rng, 50)) }},
		{"Ya is 0", all, func(p *prober) { p.write(make([]byte, 300)) }},
		{"Ya is 1", all, func(p *prober) { p.write(append(append(make([]byte, 95), 1), random(p.rng, 700)...)) }},
		{"Ya is P", all, func(p *prober) { p.write(append(p768.Bytes(), random(p.rng, 700)...)) }},
		{"MSE and nothing after Ya", all, func(p *prober) { p.write(newMSE(p.rng).ya) }},
		{"MSE and no req1", all, func(p *prober) { p.write(newMSE(p.rng).ya); p.need(96); p.write(random(p.rng, 700)) }},
		{"MSE for another torrent", all, func(p *prober) { p.mse(third{skey: other, provide: 3, ia: plaintextHello(other)}) }},
		{"MSE with a bad VC", all, func(p *prober) { p.mse(third{skey: ih, vc: [8]byte{7: 1}, provide: 3, ia: plaintextHello(ih)}) }},
		{"MSE that provides nothing", all, func(p *prober) { p.mse(third{skey: ih, provide: 0, ia: plaintextHello(ih)}) }},
		{"MSE that provides what there is not", all, func(p *prober) { p.mse(third{skey: ih, provide: 4, ia: plaintextHello(ih)}) }},
		{"MSE with a PadC of 513", all, func(p *prober) { p.mse(third{skey: ih, provide: 3, padC: 513, ia: plaintextHello(ih)}) }},
		{"MSE with a PadC of 65,535", all, func(p *prober) { p.mse(third{skey: ih, provide: 3, padC: 65535}) }},
	}},
	// Who knows a torrent and MSE sees step 4 (section 2); what is wrong behind that is not shown.
	{"MSE, and what is in it is not right", 2, 15 * time.Second, 30 * time.Second, 0, []probe{
		{"nothing in it", all, func(p *prober) { p.mse(third{skey: ih, provide: 2}) }},
		{"noise", all, func(p *prober) { p.mse(third{skey: ih, provide: 2, ia: random(p.rng, 68)}) }},
		{"noise, in plaintext", all, func(p *prober) { p.mse(third{skey: ih, provide: 1, ia: random(p.rng, 68)}) }},
		{"half a hello", all, func(p *prober) { p.mse(third{skey: ih, provide: 2, ia: plaintextHello(ih), noIA: 34}) }},
		{"another torrent's hello", all, func(p *prober) { p.mse(third{skey: ih, provide: 2, padC: 512, ia: plaintextHello(other)}) }},
		{"noise after it", all, func(p *prober) {
			p.mse(third{skey: ih, provide: 2})
			p.until(3 * time.Second)
			p.write(random(p.rng, 1000))
		}},
	}},
	{"a hello that opens, and a first record that does not", 1, 15 * time.Second, 30 * time.Second, 0, []probe{
		{"nothing after the hello", all, func(p *prober) { p.veil(ih, plainHello(1, 0)) }},
		{"a part of PAD_i", all, func(p *prober) { p.veil(ih, plainHello(1, 512)); p.write(random(p.rng, 100)) }},
		{"a replay, as it was recorded", all, func(p *prober) {
			p.veil(ih, plainHello(1, 5)) // whose rest, the old session's records, is no better than noise
			p.write(random(p.rng, 5+400))
		}},
		{"noise", all, func(p *prober) { p.veilOpens(); p.write(random(p.rng, 70_000)) }},
		{"a record of another number", all, func(p *prober) {
			v := p.veilOpens()
			v.out.n = 1
			p.write(v.out.seal(exchangeFrame(), 0))
			p.write(random(p.rng, 66_000))
		}},
		{"half a record", all, func(p *prober) { v := p.veilOpens(); p.write(v.out.seal(exchangeFrame(), 100)[:90]) }},
		{"a record with a bit changed", all, func(p *prober) {
			v := p.veilOpens()
			b := v.out.seal(exchangeFrame(), 100)
			b[50] ^= 4
			p.write(b)
		}},
		{"LEN too small", all, func(p *prober) { v := p.veilOpens(); p.write(append(v.out.maskLen(17), random(p.rng, 17)...)) }},
		{"padlen too large", all, func(p *prober) { v := p.veilOpens(); p.write(v.out.raw([]byte{1, 0, 5})) }},
		{"empty records", all, func(p *prober) {
			v := p.veilOpens()
			for range 40 {
				p.write(v.out.seal(nil, 20))
			}
		}},
		{"late noise", all, func(p *prober) { p.veilOpens(); p.until(12 * time.Second); p.write(random(p.rng, 70_000)) }},
	}},
	{"an established session", 2, 5 * time.Second, 30 * time.Second, 3 * time.Second, []probe{
		{"noise", all, func(p *prober) { p.session(); p.write(random(p.rng, 70_000)) }},
		{"a record with a bit changed", all, func(p *prober) {
			b := p.session().out.seal(appFrame(1, 300), 0)
			b[200] ^= 1
			p.write(b)
		}},
		{"the last bit of a record changed", all, func(p *prober) {
			b := p.session().out.seal(appFrame(1, 300), 0)
			b[len(b)-1] ^= 0x80
			p.write(b)
		}},
		{"a record again", all, func(p *prober) {
			v := p.session()
			b := v.out.seal(appFrame(1, 300), 0)
			p.write(append(bytes.Clone(b), b...))
			p.write(random(p.rng, 66_000)) // its LEN is another this time, which may be a long one
		}},
		{"a record left out", all, func(p *prober) {
			v := p.session()
			v.out.n++
			p.write(append(v.out.seal(appFrame(1, 300), 0), random(p.rng, 66_000)...))
		}},
		{"LEN too small", all, func(p *prober) { p.write(p.session().out.maskLen(17)) }},
		{"LEN 0", all, func(p *prober) { p.write(p.session().out.maskLen(0)) }},
		{"padlen too large", all, func(p *prober) { p.write(p.session().out.raw([]byte{0, 9, 1, 2, 3, 4, 5, 6, 7, 8})) }},
		{"17 empty records", all, func(p *prober) {
			v := p.session()
			for range 17 {
				p.write(v.out.seal(nil, 3))
			}
		}},
		{"our own record back", all, func(p *prober) {
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
				s := play(t, byte(c<<6|i), pr, n, 0)
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
			s := play(t, byte(c<<6|i), pr, 4, ends)
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
