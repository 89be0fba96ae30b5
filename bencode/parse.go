package bencode

import "strconv"

const (
	reasonTruncated = "unexpected end of input"
	maxInt64        = 1<<63 - 1
)

// Parse checks the one value that b starts with and returns it together with the bytes behind it. Both
// alias b, which must not change while they are in use. The error is a [*SyntaxError]; the value is then
// absent and rest is nil. Parse takes time linear in the size of the value and allocates only for an
// error.
func Parse(b []byte, lim Limits) (v Value, rest []byte, err error) {
	end, err := scan(b, lim.resolved())
	if err != nil {
		return Value{}, nil, err
	}
	return Value{raw: b[:end:end]}, b[end:], nil
}

// scan returns where the value at the start of all ends. It is a loop and not a recursion, so that
// nesting costs one bit a level.
func scan(all []byte, lim Limits) (end int, err error) {
	b := all[:min(len(all), lim.Bytes)]
	short := func() error {
		if len(b) < len(all) {
			return &SyntaxError{len(b), "value of more than " + strconv.Itoa(lim.Bytes) + " bytes"}
		}
		return &SyntaxError{len(b), reasonTruncated}
	}

	var isDict [MaxDepth / 64]uint64 // per open container, outermost first: is it a dictionary?
	var (
		pos   int
		depth int
		items int
		inD   bool // the innermost open container is a dictionary ...
		key   bool // ... and what comes next is a key or the end
	)
	for {
		if pos >= len(b) {
			return 0, short()
		}
		c := b[pos]
		if c == 'e' && depth > 0 {
			if inD && !key {
				return 0, &SyntaxError{pos, "dictionary key without a value"}
			}
			pos++
			depth--
			if depth == 0 {
				return pos, nil
			}
			inD = isDict[(depth-1)/64]>>((depth-1)%64)&1 == 1
			key = inD // a container inside a dictionary was a value; a key follows
			continue
		}
		items++
		if items > lim.Items {
			return 0, &SyntaxError{pos, "more than " + strconv.Itoa(lim.Items) + " items"}
		}
		if key && (c < '0' || c > '9') {
			return 0, &SyntaxError{pos, "dictionary key is not a string"}
		}
		switch {
		case c == 'd' || c == 'l':
			if depth == lim.Depth {
				return 0, &SyntaxError{pos, "nested deeper than " + strconv.Itoa(lim.Depth)}
			}
			bit := uint64(1) << (depth % 64)
			if inD = c == 'd'; inD {
				isDict[depth/64] |= bit
			} else {
				isDict[depth/64] &^= bit
			}
			key = inD
			depth++
			pos++
			continue
		case c == 'i':
			n, reason := scanInt(b[pos:])
			if reason == reasonTruncated {
				return 0, short()
			}
			if reason != "" {
				return 0, &SyntaxError{pos, reason}
			}
			pos += n
		case '0' <= c && c <= '9':
			start, n, reason := scanLength(b[pos:])
			if reason == reasonTruncated {
				return 0, short()
			}
			if reason != "" {
				return 0, &SyntaxError{pos, reason}
			}
			if n > int64(len(b)-pos-start) {
				if n > int64(len(all)-pos-start) {
					return 0, &SyntaxError{pos, "string runs past the end of input"}
				}
				return 0, short()
			}
			pos += start + int(n)
		default:
			return 0, &SyntaxError{pos, "no value starts with byte 0x" + hexByte(c)}
		}
		if depth == 0 {
			return pos, nil
		}
		key = inD && !key
	}
}

// scanInt returns the encoded size of the integer at the start of b, or why there is none.
func scanInt(b []byte) (n int, reason string) {
	i := 1
	neg := i < len(b) && b[i] == '-'
	if neg {
		i++
	}
	first := i
	var v uint64
	for ; i < len(b) && '0' <= b[i] && b[i] <= '9'; i++ {
		if i > first && b[first] == '0' {
			return 0, "integer with a leading zero"
		}
		d := uint64(b[i] - '0')
		limit := uint64(maxInt64)
		if neg {
			limit++
		}
		if v > (limit-d)/10 {
			return 0, "integer beyond 64 bits"
		}
		v = v*10 + d
	}
	switch {
	case i == len(b):
		return 0, reasonTruncated
	case b[i] != 'e':
		return 0, "integer with byte 0x" + hexByte(b[i])
	case i == first:
		return 0, "integer without digits"
	case neg && v == 0:
		return 0, "integer is minus zero"
	}
	return i + 1, ""
}

// scanLength reads the length of the string at the start of b and returns it with the offset of the
// string's first byte. It stops as soon as the length is absurd, so hostile digits cost nothing.
func scanLength(b []byte) (start int, n int64, reason string) {
	i := 0
	for ; i < len(b) && '0' <= b[i] && b[i] <= '9'; i++ {
		if i > 0 && b[0] == '0' {
			return 0, 0, "string length with a leading zero"
		}
		if n > maxInt64/100 {
			return 0, 0, "string runs past the end of input"
		}
		n = n*10 + int64(b[i]-'0')
	}
	switch {
	case i == len(b):
		return 0, 0, reasonTruncated
	case b[i] != ':':
		return 0, 0, "string length with byte 0x" + hexByte(b[i])
	}
	return i + 1, n, ""
}

func hexByte(c byte) string {
	const digits = "0123456789abcdef"
	return string([]byte{digits[c>>4], digits[c&15]})
}
