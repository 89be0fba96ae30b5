package term

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestEscape(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"empty", "", ""},
		{"plain", "README.md (1)", "README.md (1)"},
		{"backslash stays", `C:\x\n`, `C:\x\n`},
		{"other scripts", "naïve — 日本語 Привет العربية 🎉", "naïve — 日本語 Привет العربية 🎉"},
		{"wide space", "全角　空白", "全角　空白"},
		{"colour", "\x1b[31mred\x1b[0m", `\x1b[31mred\x1b[0m`},
		{"title", "\x1b]0;owned\x07", `\x1b]0;owned\x07`},
		{"line breaks", "a\nb\r\tc", `a\nb\r\tc`},
		{"NUL and DEL", "\x00\x7f\x08", `\x00\x7f\x08`},
		{"C1 as UTF-8", "\u0085\u009b31m", `\u0085\u009b31m`},
		{"C1 as a byte", "\x9b31m", `\x9b31m`},
		{"bidi override", "exe\u202egpj", `exe\u202egpj`},
		{"bidi isolates", "\u2066\u2067\u2068\u2069\u200e\u200f\u061c", `\u2066\u2067\u2068\u2069\u200e\u200f\u061c`},
		{"zero width", "a\u200bb\u200cc\u200dd\ufeffe\u00adf", `a\u200bb\u200cc\u200dd\ufeffe\u00adf`},
		{"separators", "a\u2028b\u2029c", `a\u2028b\u2029c`},
		{"tags", "\U000e0001\U000e0041", `\U000e0001\U000e0041`},
		{"private use", "\ue000", `\ue000`},
		{"broken UTF-8", "a\xffb\xc3", `a\xffb\xc3`},
		{"surrogate", "\xed\xa0\x80", `\xed\xa0\x80`},
		{"replacement character itself", "\ufffd", "\ufffd"},
		{"broken after the replacement character", "\ufffd\xff", "\ufffd" + `\xff`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Escape(tt.in); got != tt.want {
				t.Errorf("Escape(%q) = %q, want %q", tt.in, got, tt.want)
			}
		})
	}
}

func TestClip(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		limit    int
		want     string
	}{
		{"shorter", "abc", 4, "abc"},
		{"exact", "abcd", 4, "abcd"},
		{"longer", "abcde", 4, "abc…"},
		{"characters, not bytes", "日本語日本語", 4, "日本語…"},
		{"exact, wide", "日本語日", 4, "日本語日"},
		{"grown by escapes", "\x1b\x1b", 5, `\x1b…`},
		{"huge", strings.Repeat("x", 1<<20), 3, "xx…"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Clip(tt.in, tt.limit); got != tt.want {
				t.Errorf("Clip(%d bytes, %d) = %q, want %q", len(tt.in), tt.limit, got, tt.want)
			}
		})
	}
}

// hostile reports the first character of s that must not reach a terminal, apart from those allowed.
func hostile(s string) (rune, bool) {
	for i, r := range s {
		_, n := utf8.DecodeRuneInString(s[i:])
		if r < 0x20 || 0x7f <= r && r < 0xa0 || r == utf8.RuneError && n == 1 || 0x200b <= r && r <= 0x200f ||
			0x2028 <= r && r <= 0x202e || 0x2060 <= r && r <= 0x206f || r == 0xfeff || r == 0x061c || r == 0xad {
			return r, true
		}
	}
	return 0, false
}

func FuzzEscape(f *testing.F) {
	f.Add("plain")
	f.Add("\x1b]0;x\x07\u009b\u202e\xff\U000e0001\u2028")
	f.Fuzz(func(t *testing.T, s string) {
		got := Escape(s)
		if r, bad := hostile(got); bad {
			t.Fatalf("Escape(%q) = %q holds %q", s, got, r)
		}
		if Escape(got) != got {
			t.Fatalf("Escape(%q) is not stable", s)
		}
		if c := Clip(s, 8); utf8.RuneCountInString(c) > 8 {
			t.Fatalf("Clip(%q, 8) = %q", s, c)
		}
		src, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		out := AppendJSON(nil, src)
		if r, bad := hostile(string(out)); bad {
			t.Fatalf("AppendJSON(%q) = %q holds %q", src, out, r)
		}
		var was, is string
		if err := json.Unmarshal(src, &was); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out, &is); err != nil {
			t.Fatalf("AppendJSON(%q) = %q: %v", src, out, err)
		}
		if was != is {
			t.Fatalf("AppendJSON(%q) means %q, want %q", src, is, was)
		}
	})
}
