package emp_test

import (
	"testing"

	"github.com/parley-bt/parley/wire/emp"
)

// A message of 64 bytes in one frame, as a busy session has them by the million.
func BenchmarkParse64(b *testing.B) {
	payload := append(emp.AppendMessageHead(nil, 1_000_000, 7, 0, 64), make([]byte, 64)...)
	var f emp.Frame
	b.ReportAllocs()
	b.SetBytes(64)
	for b.Loop() {
		if err := f.Parse(payload); err != nil || len(f.Data) != 64 {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendMessageHead(b *testing.B) {
	dst := make([]byte, 0, emp.MaxHeadBytes)
	b.ReportAllocs()
	for b.Loop() {
		dst = emp.AppendMessageHead(dst[:0], 1_000_000, 7, 0, 64)
	}
}
