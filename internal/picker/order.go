package picker

// order keeps all pieces in one array sorted by class, so that the rarest piece that can still be
// opened is at a known place and a change of availability costs a few swaps:
//
//	class   0: nobody has it, can be opened      at[starts[0]:starts[1]]
//	class   1: nobody has it, open or verified   at[starts[1]:starts[2]]
//	class 2*k: k peers have it, can be opened    ...
//
// Neighbouring classes touch, so a piece moves to the next class by being swapped to the boundary and
// the boundary stepping over it. Seeds are not counted here: they add the same to every piece.
//
// Counting a peer that has many pieces would mean as many scattered swaps; beyond a share of the torrent
// it is cheaper to change the classes only, call the array stale, and sort it once when next needed.
type order struct {
	at     []uint32 // piece indexes, sorted by class unless stale
	pos    []uint32 // pos[i] is where piece i stands in at
	class  []uint32 // class[i] is always right, stale or not
	starts []uint32 // starts[c] is the first place in at of a class >= c; the last entry is len(at)
	stale  bool
}

// newOrder returns a stale order of n pieces of class 0.
func newOrder(n int) order {
	return order{at: make([]uint32, n), pos: make([]uint32, n), class: make([]uint32, n), stale: true}
}

// raise moves piece i to the next class.
func (o *order) raise(i uint32) {
	c := o.class[i]
	o.class[i] = c + 1
	if o.stale {
		return
	}
	if int(c)+2 >= len(o.starts) {
		o.starts = append(o.starts, uint32(len(o.at)))
	}
	last := o.starts[c+1] - 1
	o.swap(o.pos[i], last)
	o.starts[c+1] = last
}

// lower moves piece i, which is not of class 0, to the class before.
func (o *order) lower(i uint32) {
	c := o.class[i]
	o.class[i] = c - 1
	if o.stale {
		return
	}
	first := o.starts[c]
	o.swap(o.pos[i], first)
	o.starts[c] = first + 1
}

// count adds a peer to those that have piece i, or takes one away.
func (o *order) count(i uint32, by int) {
	if by > 0 {
		o.raise(i)
		o.raise(i)
	} else if o.class[i] >= 2 {
		o.lower(i)
		o.lower(i)
	}
}

func (o *order) swap(a, b uint32) {
	if a == b {
		return
	}
	i, j := o.at[a], o.at[b]
	o.at[a], o.at[b] = j, i
	o.pos[i], o.pos[j] = b, a
}

// settle sorts a stale array again. It takes the pieces as they come, not in the order they had, because
// going through memory in sequence is many times faster; who walks a class chooses where to start.
func (o *order) settle() {
	if !o.stale {
		return
	}
	o.stale = false
	top := uint32(0)
	for _, c := range o.class {
		top = max(top, c)
	}
	if cap(o.starts) < int(top)+2 {
		o.starts = make([]uint32, top+2, top+2+top/2)
	}
	o.starts = o.starts[:top+2]
	clear(o.starts)
	for _, c := range o.class {
		o.starts[c+1]++
	}
	for c := uint32(1); c < top+2; c++ {
		o.starts[c] += o.starts[c-1]
	}
	// Filling a class moves its start to its end, which is the next start; shifting puts that right.
	for i, c := range o.class {
		place := o.starts[c]
		o.starts[c]++
		o.at[place] = uint32(i)
		o.pos[i] = place
	}
	copy(o.starts[1:], o.starts[:top+1])
	o.starts[0] = 0
}

// bounds returns the places of class c in a settled order; both are 0 if there is no such class.
func (o *order) bounds(c int) (from, to uint32) {
	if c+1 >= len(o.starts) {
		return 0, 0
	}
	return o.starts[c], o.starts[c+1]
}
