package sequence

import "testing"

// The hash that node/sequence.mjs gives for the same messages: both languages make the same ones.
func TestOfMatchesNode(t *testing.T) {
	s := Of(ToParley, 10_000)
	const want = "420d7301d3d641c27904cdf3768193d8504a75d2c7e947807c5a31cd6ac5ec66"
	if s.Hex() != want || s.Count != 10_000 || s.Bytes != 309_530_223 {
		t.Errorf("%d messages, %d bytes, %s", s.Count, s.Bytes, s.Hex())
	}
}

func TestSizes(t *testing.T) {
	for i, want := range map[uint32]int{0: 0, 1: MaxBytes, 50: 0, 51: MaxBytes} {
		if got := len(Append(nil, FromParley, i)); got != want {
			t.Errorf("message %d has %d bytes, want %d", i, got, want)
		}
	}
}

func TestSumSeesOrderAndCuts(t *testing.T) {
	sum := func(msgs ...string) string {
		s := NewSum()
		for _, m := range msgs {
			s.Add([]byte(m))
		}
		return s.Hex()
	}
	base := sum("ab", "c")
	for _, other := range []string{sum("c", "ab"), sum("a", "bc"), sum("abc"), sum("ab", "c", "")} {
		if other == base {
			t.Error("two sequences, one sum")
		}
	}
}
