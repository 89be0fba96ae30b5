package tracker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func testRand() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// dialogue drives Tiers as a conversation: want the task, answer it, let time pass.
type dialogue struct {
	t     *testing.T
	tiers *Tiers
	now   time.Time
}

// talk starts a dialogue over tiers of trackers by name.
func talk(t *testing.T, names ...[]string) *dialogue {
	var all [][]URL
	for _, tier := range names {
		var urls []URL
		for _, n := range tier {
			urls = append(urls, URL{URL: n})
		}
		all = append(all, urls)
	}
	return &dialogue{t: t, tiers: NewTiers(all, testRand()), now: t0}
}

func (d *dialogue) want(name string, e Event) Task {
	d.t.Helper()
	task, wake, ok := d.tiers.Next(d.now)
	if !ok || task.URL.URL != name || task.Event != e {
		d.t.Fatalf("at %v: %+v (%t, again at %v), want %s %q", d.now.Sub(t0), task, ok, wake.Sub(t0), name, e)
	}
	return task
}

// idle wants no task now, and one that may be due in `in`; negative: never.
func (d *dialogue) idle(in time.Duration) {
	d.t.Helper()
	task, wake, ok := d.tiers.Next(d.now)
	if ok || in >= 0 && !wake.Equal(d.now.Add(in)) || in < 0 && !wake.IsZero() {
		d.t.Fatalf("at %v: %+v (%t), again in %v, want nothing for %v", d.now.Sub(t0), task, ok, wake.Sub(d.now), in)
	}
}

func (d *dialogue) answer(o Outcome)     { d.tiers.Done(d.now, o) }
func (d *dialogue) fail()                { d.answer(Outcome{Failed: true}) }
func (d *dialogue) pass(p time.Duration) { d.now = d.now.Add(p) }

func TestTiersOneTracker(t *testing.T) {
	d := talk(t, []string{"a"})
	d.want("a", EventStarted)
	d.idle(-1) // it is out
	d.answer(Outcome{Interval: 10 * time.Minute, TrackerID: "x"})
	d.idle(10 * time.Minute)
	d.pass(10*time.Minute - 1)
	d.idle(1)
	d.pass(1)
	if task := d.want("a", EventNone); task.ID != "x" {
		t.Errorf("tracker id %q, want x", task.ID)
	}
	d.answer(Outcome{Interval: 10 * time.Minute})
	d.tiers.Complete()
	if task := d.want("a", EventCompleted); task.ID != "x" {
		t.Errorf("tracker id %q, want the previous one", task.ID)
	}
	d.answer(Outcome{Interval: 10 * time.Minute})
	d.idle(10 * time.Minute)
	if last := d.tiers.Stop(); len(last) != 1 || last[0].Event != EventStopped || last[0].ID != "x" {
		t.Errorf("stop: %+v", last)
	}
	d.idle(-1)
	if last := d.tiers.Stop(); last != nil {
		t.Errorf("a second stop: %+v", last)
	}
}

func TestTiersIntervals(t *testing.T) {
	tests := []struct {
		name        string
		interval    time.Duration
		min         time.Duration
		next, early time.Duration // regular, and if peers are wanted
	}{
		{"nothing said", 0, 0, 30 * time.Minute, 5 * time.Minute},
		{"both", 20 * time.Minute, 10 * time.Minute, 20 * time.Minute, 10 * time.Minute},
		{"short", time.Second, time.Second, 30 * time.Second, 30 * time.Second},
		{"long", 1 << 60, 0, 6 * time.Hour, 5 * time.Minute},
		{"both long", 1 << 60, 1 << 60, 6 * time.Hour, 6 * time.Hour},
		{"min above interval", 10 * time.Minute, 20 * time.Minute, 20 * time.Minute, 20 * time.Minute},
		{"only min", 0, time.Hour, time.Hour, time.Hour},
		{"interval below the default min", 2 * time.Minute, 0, 2 * time.Minute, 2 * time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := talk(t, []string{"a"})
			d.want("a", EventStarted)
			d.answer(Outcome{Interval: tt.interval, MinInterval: tt.min})
			d.idle(tt.next)
			d.tiers.WantPeers()
			d.idle(tt.early)
			d.pass(tt.early)
			d.want("a", EventNone)
			d.answer(Outcome{Interval: tt.interval, MinInterval: tt.min})
			d.idle(tt.next) // what was wanted has been asked for
		})
	}
}

func TestTiersFailover(t *testing.T) {
	d := talk(t, []string{"a"}, []string{"b"}, []string{"c"})
	d.want("a", EventStarted)
	d.fail()
	d.want("b", EventStarted)
	d.fail()
	d.want("c", EventStarted)
	d.answer(Outcome{Interval: time.Hour})
	// The better ones are asked again when their pause is over, and c is left alone while one of them answers.
	_, wake, ok := d.tiers.Next(d.now)
	if pause := wake.Sub(d.now); ok || pause < minBackoff || pause > minBackoff*5/4 {
		t.Fatalf("again in %v, want 30 s and up to a quarter", pause)
	}
	d.pass(40 * time.Second)
	d.want("a", EventStarted)
	d.answer(Outcome{Interval: time.Hour})
	d.idle(time.Hour)
	var heard []string
	for _, task := range d.tiers.Stop() {
		heard = append(heard, task.URL.URL)
	}
	if !slices.Equal(heard, []string{"a", "c"}) {
		t.Errorf("stopped: %v, want those that had answered", heard)
	}
}

func TestTiersWorkingTrackerMovesToTheFront(t *testing.T) {
	d := talk(t, []string{"a", "b", "c"})
	order := func() (names []string) {
		for _, i := range d.tiers.tiers[0] {
			names = append(names, d.tiers.all[i].url.URL)
		}
		return names
	}
	was := order()
	d.want(was[0], EventStarted)
	d.fail()
	d.want(was[1], EventStarted)
	d.fail()
	d.want(was[2], EventStarted)
	d.answer(Outcome{Interval: 10 * time.Minute})
	if got, want := order(), []string{was[2], was[0], was[1]}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
	d.pass(10 * time.Minute) // the others' pauses are over, but it comes first now
	d.want(was[2], EventNone)
}

func TestTiersShuffle(t *testing.T) {
	first := map[string]bool{}
	rng := testRand()
	for range 100 {
		tiers := NewTiers([][]URL{{{URL: "a"}, {URL: "b"}, {URL: "c"}}, {{URL: "z"}}}, rng)
		task, _, _ := tiers.Next(t0)
		first[task.URL.URL] = true
	}
	if len(first) != 3 || first["z"] {
		t.Errorf("asked first: %v, want each of the first tier at times", first)
	}
}

func TestTiersBackoff(t *testing.T) {
	d := talk(t, []string{"a"})
	for n := range 12 {
		d.want("a", EventStarted)
		d.fail()
		_, wake, _ := d.tiers.Next(d.now)
		want := min(minBackoff<<n, maxBackoff)
		if pause := wake.Sub(d.now); pause < want || pause > want*5/4 {
			t.Errorf("after %d failures: %v, want %v and up to a quarter", n+1, pause, want)
		}
		d.now = wake
	}
	d.want("a", EventStarted)
	d.answer(Outcome{Interval: time.Hour})
	d.pass(time.Hour)
	d.want("a", EventNone) // it has heard the start
	d.fail()
	if _, wake, _ := d.tiers.Next(d.now); wake.Sub(d.now) > minBackoff*5/4 {
		t.Errorf("after a success the pause begins anew: %v", wake.Sub(d.now))
	}
}

func TestTiersRetryIn(t *testing.T) {
	for _, tt := range []struct{ said, want time.Duration }{
		{10 * time.Minute, 10 * time.Minute}, {time.Second, MinInterval}, {1 << 60, 24 * time.Hour},
	} {
		d := talk(t, []string{"a"})
		d.want("a", EventStarted)
		d.answer(Outcome{Failed: true, RetryIn: tt.said})
		d.idle(tt.want)
	}
	d := talk(t, []string{"a"})
	d.want("a", EventStarted)
	d.answer(Outcome{Failed: true, Never: true})
	d.idle(-1)
	d.pass(100 * time.Hour)
	d.idle(-1)
	d.tiers.Complete()
	d.idle(-1)
	if last := d.tiers.Stop(); last != nil {
		t.Errorf("stop: %v for a tracker that never answered", last)
	}
}

func TestTiersCompletedIsHeardOnce(t *testing.T) {
	t.Run("not before a start", func(t *testing.T) {
		d := talk(t, []string{"a"})
		d.tiers.Complete()
		d.want("a", EventStarted) // as a seed: it has not seen the download
		d.answer(Outcome{})
		d.idle(DefaultInterval)
	})
	t.Run("while the start is out", func(t *testing.T) {
		d := talk(t, []string{"a"})
		d.want("a", EventStarted)
		d.tiers.Complete()
		d.answer(Outcome{})
		d.want("a", EventCompleted)
		d.answer(Outcome{})
		d.idle(DefaultInterval)
	})
	t.Run("until it is answered", func(t *testing.T) {
		d := talk(t, []string{"a"})
		d.want("a", EventStarted)
		d.answer(Outcome{})
		d.tiers.Complete()
		d.want("a", EventCompleted)
		d.fail()
		d.pass(time.Minute)
		d.want("a", EventCompleted)
		d.answer(Outcome{})
		d.idle(DefaultInterval)
	})
	t.Run("each that heard a start", func(t *testing.T) {
		d := talk(t, []string{"a"}, []string{"b"}, []string{"c"})
		d.want("a", EventStarted)
		d.fail()
		d.want("b", EventStarted)
		d.answer(Outcome{})
		d.pass(time.Minute)
		d.want("a", EventStarted)
		d.answer(Outcome{})
		d.tiers.Complete()
		d.want("a", EventCompleted)
		d.answer(Outcome{})
		d.want("b", EventCompleted)
		d.answer(Outcome{})
		d.idle(DefaultInterval)
	})
}

func TestTiersStopWhileAnnouncing(t *testing.T) {
	d := talk(t, []string{"a"})
	d.want("a", EventStarted)
	if last := d.tiers.Stop(); len(last) != 1 { // the start may have arrived
		t.Errorf("stop: %v", last)
	}
	d = talk(t, []string{"a"})
	if last := d.tiers.Stop(); last != nil {
		t.Errorf("stop before anything: %v", last)
	}
	d = talk(t)
	d.idle(-1)
}

func TestTiersAskEachURLOnce(t *testing.T) {
	d := talk(t, []string{"a", "a"}, []string{"a"}, nil)
	if d.tiers.Len() != 1 || len(d.tiers.tiers) != 1 {
		t.Errorf("%d trackers in %d tiers", d.tiers.Len(), len(d.tiers.tiers))
	}
}

// TestTiersNeverHurry drives random histories and checks what holds in all of them: no tracker is announced to more often
// than its bounds permit, and the tiers never fall silent while a tracker may answer.
func TestTiersNeverHurry(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		tiers := NewTiers([][]URL{{{URL: "a"}, {URL: "b"}}, {{URL: "c"}}}, rng)
		now := t0
		last := map[int]time.Time{}
		completed := false
		log := ""
		for range 300 {
			task, wake, ok := tiers.Next(now)
			if !ok {
				if !wake.After(now) || wake.Sub(now) > maxRetryIn {
					t.Fatalf("seed %d: again in %v\n%s", seed, wake.Sub(now), log)
				}
				now = wake
				if rng.IntN(5) == 0 {
					tiers.WantPeers()
				}
				if !completed && rng.IntN(50) == 0 {
					completed = true
					tiers.Complete()
				}
				continue
			}
			log += fmt.Sprintln(now.Sub(t0), task.URL.URL, task.Event)
			if at, known := last[task.Tracker]; known && now.Sub(at) < MinInterval && task.Event != EventCompleted {
				t.Fatalf("seed %d: asked again after %v\n%s", seed, now.Sub(at), log)
			}
			last[task.Tracker] = now
			now = now.Add(time.Duration(rng.IntN(3)))
			tiers.Done(now, Outcome{Failed: rng.IntN(3) == 0, Interval: time.Duration(rng.IntN(4000)) * time.Second, MinInterval: time.Duration(rng.IntN(400)) * time.Second})
		}
	}
}
