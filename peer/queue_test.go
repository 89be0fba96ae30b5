package peer

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// The queue beside a plain slice, through every mix of calls; its memory follows what waits and not what has passed.
func TestQueueAgainstASlice(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 0))
		var q queue[int]
		var model []int
		for i := range 2000 {
			switch act := rng.IntN(10); {
			case act < 5 && len(model) < 20:
				q.push(i)
				model = append(model, i)
			case act < 8 && len(model) > 0:
				if v := q.pop(); v != model[0] {
					t.Fatalf("seed %d: popped %d, want %d", seed, v, model[0])
				}
				model = model[1:]
			case act < 9 && len(model) > 0:
				k := rng.IntN(len(model))
				q.removeAt(k)
				model = slices.Delete(slices.Clone(model), k, k+1)
			case act == 9 && i%100 == 0:
				q.clear()
				model = nil
			}
			if q.len() != len(model) || !slices.Equal(q.all(), model) {
				t.Fatalf("seed %d: holds %v, want %v", seed, q.all(), model)
			}
		}
		if c := cap(q.items); c > 64 {
			t.Fatalf("seed %d: room for %d, and never more than 20 waited", seed, c)
		}
	}
}
