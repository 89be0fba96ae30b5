// Package sceptic asks of the hellos what somebody would who believes nothing: whether what an observer sees looks random and is as long as
// MSE's, whether a prober learns what was wrong, whether a record that somebody touched is ever believed, and whether honest peers get through
// a flood (EMP/1 sections 2 to 5). Its tests say at which α they reject, and show by variants that are broken on purpose that they would.
//
// This file has the statistics. Each function returns a p-value: how likely a result as odd as this one, or odder, is if nothing is wrong.
package sceptic

import (
	"math"
	"slices"
)

// Coin returns the p-value of heads among n throws of a fair coin, two-sided: the normal approximation with its correction for continuity.
func Coin(heads, n int) float64 {
	if n == 0 {
		return 1
	}
	z := max(0, math.Abs(float64(heads)-float64(n)/2)-0.5) / (math.Sqrt(float64(n)) / 2)
	return math.Erfc(z / math.Sqrt2)
}

// Uniform returns the p-value of counts that should be equally likely, by chi-square.
func Uniform(counts []int) float64 {
	n := 0
	for _, c := range counts {
		n += c
	}
	if n == 0 {
		return 1
	}
	want, x := float64(n)/float64(len(counts)), 0.0
	for _, c := range counts {
		x += (float64(c) - want) * (float64(c) - want) / want
	}
	return chiSquareTail(x, len(counts)-1)
}

// Homogeneous returns the p-value of two rows of counts that should be draws of one distribution, by chi-square.
func Homogeneous(a, b []int) float64 {
	na, nb := 0, 0
	for i := range a {
		na, nb = na+a[i], nb+b[i]
	}
	x, bins := 0.0, 0
	for i := range a {
		both := float64(a[i] + b[i])
		if both == 0 {
			continue
		}
		bins++
		for _, c := range [...]struct{ got, of int }{{a[i], na}, {b[i], nb}} {
			want := both * float64(c.of) / float64(na+nb)
			x += (float64(c.got) - want) * (float64(c.got) - want) / want
		}
	}
	if bins < 2 {
		return 1
	}
	return chiSquareTail(x, bins-1)
}

// TwoSamples returns the p-value of two samples that should be draws of one distribution, by the test of Kolmogorov and Smirnov. Where values
// repeat, as lengths do, it rejects less often than it says.
func TwoSamples(a, b []float64) float64 {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	d, i, j := 0.0, 0, 0
	for i < len(a) && j < len(b) {
		v := min(a[i], b[j])
		for i < len(a) && a[i] == v {
			i++
		}
		for j < len(b) && b[j] == v {
			j++
		}
		d = max(d, math.Abs(float64(i)/float64(len(a))-float64(j)/float64(len(b))))
	}
	n := float64(len(a)) * float64(len(b)) / float64(len(a)+len(b))
	return kolmogorovTail(d, n)
}

// UniformBetween returns the p-value of a sample that should be uniform from low to high, by the test of Kolmogorov and Smirnov.
func UniformBetween(sample []float64, low, high float64) float64 {
	s := slices.Sorted(slices.Values(sample))
	d := 0.0
	for i, v := range s {
		at := min(1, max(0, (v-low)/(high-low)))
		d = max(d, at-float64(i)/float64(len(s)), float64(i+1)/float64(len(s))-at)
	}
	return kolmogorovTail(d, float64(len(s)))
}

// kolmogorovTail is how likely a distance of d or more is in a sample of n, or of two with n = n1·n2/(n1+n2).
func kolmogorovTail(d, n float64) float64 {
	x := (math.Sqrt(n) + 0.12 + 0.11/math.Sqrt(n)) * d
	if x < 0.3 {
		return 1 // to seven places, where the series below is of no use
	}
	sum, sign := 0.0, 1.0
	for k := 1.0; k <= 100; k++ {
		sum += sign * math.Exp(-2*k*k*x*x)
		sign = -sign
	}
	return min(1, max(0, 2*sum))
}

// chiSquareTail is how likely x or more is with so many degrees of freedom: the regularized upper incomplete gamma function.
func chiSquareTail(x float64, freedom int) float64 {
	a, x := float64(freedom)/2, x/2
	if x <= 0 {
		return 1
	}
	lg, _ := math.Lgamma(a)
	front := math.Exp(-x + a*math.Log(x) - lg)
	if x < a+1 { // by series
		term := 1 / a
		sum := term
		for k := 1; k < 10_000 && term > sum*1e-15; k++ {
			term *= x / (a + float64(k))
			sum += term
		}
		return max(0, 1-sum*front)
	}
	const tiny = 1e-300 // by Lentz's continued fraction
	b := x + 1 - a
	c, d := 1/tiny, 1/b
	h := d
	for k := 1; k < 10_000; k++ {
		an := -float64(k) * (float64(k) - a)
		b += 2
		d = an*d + b
		if math.Abs(d) < tiny {
			d = tiny
		}
		if c = b + an/c; math.Abs(c) < tiny {
			c = tiny
		}
		d = 1 / d
		h *= d * c
		if math.Abs(d*c-1) < 1e-15 {
			break
		}
	}
	return front * h
}
