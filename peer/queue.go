package peer

// queue is a first-in first-out queue that reuses its memory. The zero queue is empty.
type queue[T any] struct {
	items []T
	head  int
}

func (q *queue[T]) len() int { return len(q.items) - q.head }

func (q *queue[T]) push(v T) {
	if q.head > 0 && len(q.items) == cap(q.items) {
		n := copy(q.items, q.items[q.head:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, v)
}

func (q *queue[T]) pop() T {
	v := q.items[q.head]
	q.head++
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	return v
}

// all returns what waits, in order; valid until the next call.
func (q *queue[T]) all() []T { return q.items[q.head:] }

// removeAt takes out element i of all.
func (q *queue[T]) removeAt(i int) {
	i += q.head
	q.items = append(q.items[:i], q.items[i+1:]...)
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
}

func (q *queue[T]) clear() { q.items, q.head = q.items[:0], 0 }
