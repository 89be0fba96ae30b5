package sceptic

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/parley-bt/parley/obfs"
	"github.com/parley-bt/parley/obfs/veil"
)

// heads is the part of the battery that looks at heads of fixed length.
func heads(t *testing.T, s side) (failed []string) {
	t.Helper()
	for _, name := range []string{"head bits", "head bytes", "head histogram", "head pairs"} {
		p := min(1, battery[name](&s))
		t.Logf("%s: %s p %.2g (corrected)", s.name, name, p)
		if p < alpha {
			failed = append(failed, name)
		}
	}
	return failed
}

// TestFlightsAreIndependent looks at what two flights have in common: those of one connection, whose masks come of one IV, and those of one host one after the other. Their differences are random too, and nothing ever
// comes twice.
func TestFlightsAreIndependent(t *testing.T) {
	all := collect()
	xored := func(name string, a, b func(n int) []byte, pairs int) side {
		s := side{name: name, head: veil.AnswerBytes, keyAt: -1}
		for n := range pairs {
			x, y := a(n), b(n)
			f := make([]byte, s.head)
			for i := range f {
				f[i] = x[i] ^ y[i]
			}
			s.flights = append(s.flights, f)
		}
		return s
	}
	vi, vr := all.veilI.flights, all.veilR.flights
	for _, s := range []side{
		xored("key fields and boxes of one connection", func(n int) []byte { return vi[n][36:] }, func(n int) []byte { return vr[n] }, len(vi)),
		xored("hellos one after the other", func(n int) []byte { return vi[n] }, func(n int) []byte { return vi[n+1] }, len(vi)-1),
		xored("answers one after the other", func(n int) []byte { return vr[n] }, func(n int) []byte { return vr[n+1] }, len(vr)-1),
	} {
		if failed := heads(t, s); failed != nil {
			t.Errorf("%s: %q reject at %g", s.name, failed, alpha)
		}
	}
	seen := map[uint64]bool{}
	for _, s := range []side{all.veilI, all.veilR, all.mseI, all.mseR} {
		for n, f := range s.flights {
			for at := 0; at+8 <= s.head; at += 8 {
				x := binary.LittleEndian.Uint64(f[at:])
				if seen[x] { // of these 400,000 numbers none comes twice by chance: 2^-27
					t.Fatalf("%s %d: bytes %d.. have been there before", s.name, n, at)
				}
				seen[x] = true
			}
		}
	}
}

// TestRecordsLookRandom looks at the first records of many sessions, which all have the same payload: neither LEN nor the sealed bytes show it. A LEN that is not masked is found.
func TestRecordsLookRandom(t *testing.T) {
	all := collect()
	n := len(all.veilI.flights) / 4
	for _, number := range []int{0, 5} { // with padding and without
		s := side{name: "records", head: 64, keyAt: -1}
		for k := range n {
			var i veil.Initiator
			rng := seeded('i', k) // the flights are as they were
			key := must(veil.NewKey(rng))
			if err := i.Init(veil.Config{Rand: rng, Key: key}, &ih); err != nil {
				t.Fatal(err)
			}
			if _, err := i.Feed(slices.Clone(all.veilR.flights[k])); err != nil {
				t.Fatal(err)
			}
			streams, _ := i.Done()
			var record []byte
			for range number + 1 {
				b := append(make([]byte, obfs.Headroom), "always the same payload, which is longer than the head that is looked at"...)
				record = streams.Sealer.Seal(nil, b)
			}
			s.flights = append(s.flights, record)
		}
		if failed := heads(t, s); failed != nil {
			t.Errorf("record %d: %q reject at %g", number, failed, alpha)
		}
		broken := s.change("LEN is not masked", func(_ int, f []byte) []byte {
			binary.BigEndian.PutUint16(f, uint16(len(f)-2))
			return f
		})
		broken.masks = nil
		if failed := heads(t, broken); !slices.Contains(failed, "head bits") {
			t.Errorf("record %d with a plain LEN: rejected by %q", number, failed)
		}
	}
}
