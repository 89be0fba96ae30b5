package sceptic

import (
	"math"
	"testing"
)

// TestStatistics compares with values of the tables.
func TestStatistics(t *testing.T) {
	for _, tt := range []struct {
		name      string
		got, want float64
	}{
		{"chi-square 3.841, 1", chiSquareTail(3.841459, 1), 0.05},
		{"chi-square 18.307, 10", chiSquareTail(18.307038, 10), 0.05},
		{"chi-square 2.558, 10", chiSquareTail(2.558212, 10), 0.99},
		{"chi-square 310.457, 255", chiSquareTail(310.457388, 255), 0.01},
		{"chi-square 377.1, 255", chiSquareTail(377.0792, 255), 1e-6},
		{"Kolmogorov 1.3581", kolmogorovTail(1.358099/math.Sqrt(1e12), 1e12), 0.05},
		{"Kolmogorov 1.6276", kolmogorovTail(1.627624/math.Sqrt(1e12), 1e12), 0.01},
		{"coin", Coin(5098+1, 10_000), 0.0488}, // z = 1.97
	} {
		if math.Abs(tt.got-tt.want) > tt.want*0.02 {
			t.Errorf("%s: %g, want %g", tt.name, tt.got, tt.want)
		}
	}
	if p := TwoSamples([]float64{1, 2, 3, 4}, []float64{4, 3, 2, 1}); p != 1 {
		t.Errorf("equal samples: %g", p)
	}
	if p := Homogeneous([]int{10, 20, 0, 30}, []int{20, 40, 0, 60}); p < 0.999 {
		t.Errorf("rows in proportion: %g", p)
	}
	if p := Homogeneous([]int{100, 0}, []int{0, 100}); p > 1e-20 {
		t.Errorf("rows with nothing in common: %g", p)
	}
	var even []float64
	for i := range 1000 {
		even = append(even, (float64(i)+0.5)/1000)
	}
	if p := UniformBetween(even, 0, 1); p < 0.999 {
		t.Errorf("even: %g", p)
	}
	if p := UniformBetween(even, 0, 1.5); p > 1e-20 {
		t.Errorf("over two thirds: %g", p)
	}
}
