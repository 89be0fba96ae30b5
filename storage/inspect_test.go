package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/bitfield"
)

func TestInspect(t *testing.T) {
	// Pieces of 100: a 0-4, b 4-14, c 14-16, padding 17, d 18-19.
	tor := newTorrent(t, 100, []string{"n/a", "n/empty", "n/b", "n/c", "", "n/d"}, []int64{450, 0, 1000, 250, 100, 200})
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	in := func(dir, name string) string { return filepath.Join(dir, "n", name) }
	change := func(t *testing.T, path string, at int) {
		b, err := os.ReadFile(path)
		must(t, err)
		b[at] ^= 1
		writeFile(t, path, b)
	}
	tests := []struct {
		name   string
		change func(t *testing.T, dir string)
		want   string // of each file that is not ok: name, state, bad and unknown of how many
	}{
		{"whole", func(*testing.T, string) {}, ""},
		{"one byte", func(t *testing.T, dir string) { change(t, in(dir, "b"), 70) }, "b damaged 1+0/11"},
		{"one byte between two", func(t *testing.T, dir string) { change(t, in(dir, "b"), 10) }, "a damaged 1+0/5, b damaged 1+0/11"},
		{"missing", func(t *testing.T, dir string) { must(t, os.Remove(in(dir, "b"))) }, "a ok 0+1/5, b missing 11+0/11, c ok 0+1/3"},
		{"an empty one is missing", func(t *testing.T, dir string) { must(t, os.Remove(in(dir, "empty"))) }, "empty missing 0+0/0"},
		{"all missing", func(t *testing.T, dir string) { must(t, os.RemoveAll(filepath.Join(dir, "n"))) },
			"a missing 5+0/5, empty missing 0+0/0, b missing 11+0/11, c missing 3+0/3, d missing 2+0/2"},
		{"shorter", func(t *testing.T, dir string) { must(t, os.Truncate(in(dir, "b"), 555)) }, "b damaged 5+0/11 conflict, c ok 0+1/3"},
		{"longer", func(t *testing.T, dir string) { must(t, os.Truncate(in(dir, "d"), 900)) }, "d damaged 0+0/2 conflict"},
		{"a part", func(t *testing.T, dir string) {
			must(t, os.Rename(in(dir, "b"), in(dir, "b.part")))
			must(t, os.Truncate(in(dir, "b.part"), 555))
		}, "b.part partial 5+0/11, c ok 0+1/3"},
		{"a part with holes", func(t *testing.T, dir string) {
			b := tor.content(t, "n/b")
			writeFile(t, in(dir, "b.part"), append(make([]byte, 60), b[60:]...))
			must(t, os.Remove(in(dir, "b")))
		}, "a ok 0+1/5, b.part partial 2+0/11"},
		{"a folder", func(t *testing.T, dir string) {
			must(t, os.Remove(in(dir, "d")))
			must(t, os.Mkdir(in(dir, "d"), 0o777))
		}, "d damaged 2+0/2 conflict"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			s := tor.open(t, dir, Options{})
			tor.writeAll(t, s)
			closeStorage(t, s)
			tt.change(t, dir)
			before := tree(t, dir)
			calls := 0
			reports, err := Inspect(t.Context(), dir, tor.files, tor.geom, V1Hashes(tor.hashes), func(done, total int) {
				if calls++; done != calls || total != 20 {
					t.Errorf("progress %d of %d in call %d", done, total, calls)
				}
			})
			if err != nil || calls != 20 {
				t.Fatalf("%v after %d calls", err, calls)
			}
			var got []string
			for _, r := range reports {
				if want := strings.TrimPrefix(filepath.ToSlash(r.Path), filepath.ToSlash(dir)+"/n/"); r.State != FileOK || r.Bad+r.Unknown > 0 {
					line := fmt.Sprintf("%s %v %d+%d/%d", want, r.State, r.Bad, r.Unknown, r.Pieces)
					if errors.Is(r.Err, ErrConflict) {
						line += " conflict"
					} else if r.Err != nil {
						line += " " + r.Err.Error()
					}
					got = append(got, line)
				}
				if f := tor.files[r.Index]; f.Padding || f.Length != r.Length || !strings.HasPrefix(filepath.Base(r.Path), f.Path[1]) {
					t.Errorf("report %+v is said to be about %+v", r, f)
				}
			}
			if strings.Join(got, ", ") != tt.want || len(reports) != 5 {
				t.Errorf("%d reports, %s\nwant %s", len(reports), strings.Join(got, ", "), tt.want)
			}
			wantTree(t, dir, before)
		})
	}
	t.Run("no folder", func(t *testing.T) {
		if _, err := Inspect(t.Context(), filepath.Join(t.TempDir(), "nowhere"), tor.files, tor.geom, V1Hashes(tor.hashes), nil); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	})
	t.Run("hashes missing", func(t *testing.T) {
		if _, err := Inspect(t.Context(), t.TempDir(), tor.files, tor.geom, V1Hashes(tor.hashes[20:]), nil); err == nil {
			t.Error("accepted")
		}
	})
	t.Run("stopped", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Inspect(ctx, t.TempDir(), tor.files, tor.geom, V1Hashes(tor.hashes), nil); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// Verification of some pieces, at a rate.
func TestVerifyOptions(t *testing.T) {
	tor := newTorrent(t, 100, []string{"a"}, []int64{10_000})
	m := NewMemory(tor.geom)
	tor.writeAll(t, m)
	some := newPieces(tor, 0, 3, 4, 5, 50, 99)
	calls := 0
	good, err := Verify(t.Context(), m, tor.geom, V1Hashes(tor.hashes), VerifyOptions{Pieces: some, Workers: 1, Progress: func(done, total int) {
		if calls++; done != calls || total != 6 {
			t.Errorf("progress %d of %d", done, total)
		}
	}})
	if err != nil || calls != 6 {
		t.Errorf("%v after %d calls", err, calls)
	}
	wantPieces(t, "right", good, 0, 3, 4, 5, 50, 99)
	if _, err := Verify(t.Context(), m, tor.geom, V1Hashes(tor.hashes), VerifyOptions{Pieces: newPieces(newTorrent(t, 100, []string{"a"}, []int64{500}))}); err == nil {
		t.Error("a set of another torrent is accepted")
	}
	if good, err := Verify(t.Context(), m, tor.geom, V1Hashes(tor.hashes), VerifyOptions{Pieces: newPieces(tor)}); err != nil || good.Count() != 0 {
		t.Errorf("nothing to verify: %d pieces, %v", good.Count(), err)
	}
}

func newPieces(tor *torrent, pieces ...int) *bitfield.Set {
	s := bitfield.New(tor.geom.NumPieces())
	for _, i := range pieces {
		s.Add(i)
	}
	return s
}

func TestVerifyAtARate(t *testing.T) {
	const total, rate = 10_000_000, 1_000_000
	tor := newTorrent(t, 100_000, []string{"a"}, []int64{total})
	m := NewMemory(tor.geom)
	tor.writeAll(t, m)
	synctest.Test(t, func(t *testing.T) {
		for _, workers := range []int{1, 4} {
			begin := time.Now()
			good, err := Verify(t.Context(), m, tor.geom, V1Hashes(tor.hashes), VerifyOptions{BytesPerSecond: rate, Workers: workers})
			if took := time.Since(begin); err != nil || !good.Full() || took < 9*time.Second || took > 11*time.Second {
				t.Errorf("%d workers: %d pieces, %v, in %v, want about 10 s", workers, good.Count(), err, took)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		begin := time.Now()
		if good, err := Verify(ctx, m, tor.geom, V1Hashes(tor.hashes), VerifyOptions{BytesPerSecond: rate}); !errors.Is(err, context.DeadlineExceeded) || good.Count() < 15 || time.Since(begin) != 2*time.Second {
			t.Errorf("%d pieces, %v after %v, want it to end with its context after 2 s", good.Count(), err, time.Since(begin))
		}
	})
}
