// Package term makes text that came from strangers fit for a terminal, a log line and a JSON line. It decides which characters
// are shown as they are; it knows nothing of where the text came from, and it writes nothing itself.
//
// Shown as they are: printable characters and spaces, in every script. Shown as escapes: everything that moves the cursor, changes
// colours, reorders or hides text: control characters (C0, DEL, C1), line breaks, bidirectional and zero-width
// controls, private use and unassigned characters, and bytes that are no UTF-8.
package term

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Escape returns s as one line that is safe to print. Line breaks and tabs become \n, \r and \t, other control bytes and bytes that
// are not UTF-8 become \x1b, and other characters that are not shown become \u202e or \U000e0001. A backslash stays
// as it is, so that paths stay readable: the result is for people and cannot be turned back.
func Escape(s string) string {
	if clean(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 16)
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case shown(r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		i += n
	}
	return b.String()
}

// Clip is Escape for names that should be short: what is longer than limit characters ends in "…". The limit counts
// characters of the result and must be positive.
func Clip(s string, limit int) string {
	// Every character takes at most 4 bytes, so the rest cannot be part of the result: cut before escaping.
	cut := len(s) > 4*limit+utf8.UTFMax
	if cut {
		s = s[:4*limit+utf8.UTFMax]
	}
	s = Escape(s)
	n := 0
	for i := range s {
		if n++; n == limit {
			if _, size := utf8.DecodeRuneInString(s[i:]); i+size < len(s) || cut {
				return s[:i] + "…"
			}
		}
	}
	return s
}

// AppendJSON appends the JSON text src to dst with every character that [Escape] would not show written as \uXXXX. src must
// be valid JSON without line breaks between its tokens, as encoding/json writes it: outside of its strings it holds then nothing that needs an escape, and
// the result means the same.
func AppendJSON(dst, src []byte) []byte {
	for len(src) > 0 {
		r, n := utf8.DecodeRune(src)
		switch {
		case r == utf8.RuneError && n == 1:
			dst = append(dst, `\ufffd`...) // as encoding/json does
		case shown(r):
			dst = append(dst, src[:n]...)
		case r <= 0xffff:
			dst = fmt.Appendf(dst, `\u%04x`, r)
		default: // a surrogate pair, RFC 8259 section 7
			v := r - 0x10000
			dst = fmt.Appendf(dst, `\u%04x\u%04x`, 0xd800+v>>10, 0xdc00+v&0x3ff)
		}
		src = src[n:]
	}
	return dst
}

// shown reports whether r is printed as it is.
func shown(r rune) bool {
	if r < utf8.RuneSelf {
		return 0x20 <= r && r < 0x7f
	}
	// IsPrint leaves out controls (Cc), format characters (Cf: bidirectional and zero-width controls, BOM, tags), line and
	// paragraph separators, private use, surrogates and what is unassigned. Wide spaces are part of real names.
	return unicode.IsPrint(r) || unicode.Is(unicode.Zs, r)
}

func clean(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c >= 0x7f {
			// Not plain ASCII: look at characters instead of bytes.
			for j, r := range s {
				if !shown(r) {
					return false
				}
				if r == utf8.RuneError {
					if _, n := utf8.DecodeRuneInString(s[j:]); n == 1 {
						return false
					}
				}
			}
			return true
		}
	}
	return true
}
