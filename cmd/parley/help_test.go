package main

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
)

// On a terminal no line of the help is wider than it, but for what is laid out in columns, and no word is lost.
func TestHelpFits(t *testing.T) {
	words := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	for _, command := range []string{"get", "seed", "create", "tracker", "listen", "send", "show", "verify", "probe"} {
		plain := cli(t, command, "--help")
		plain.check(t, exitOK)
		for _, columns := range []int{60, 80, 200} {
			var out bytes.Buffer
			if code := run(t.Context(), []string{command, "--help"}, stdio{in: strings.NewReader(""), out: &out, err: &out, columns: columns}); code != exitOK {
				t.Fatalf("%s: exit code %d", command, code)
			}
			if words(out.String()) != words(plain.out) {
				t.Errorf("%s: the words differ at %d columns:\n%s", command, columns, out.String())
			}
			text, _, _ := strings.Cut(out.String(), "\n\nUsage:")
			_, flags, _ := strings.Cut(out.String(), "\n\nFlags:\n")
			for line := range strings.Lines(text + "\n" + flags) {
				if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > columns && strings.Contains(strings.TrimSpace(line), " ") {
					// A word that has no room beside the flag's name stands out; only URLs are as long as that.
					if !strings.Contains(line, "://") {
						t.Errorf("%s: %d columns in %d: %q", command, n, columns, line)
					}
				}
			}
		}
	}
}

func TestFoldText(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		columns    int
		want       string
	}{
		{"empty", "", 10, ""},
		{"short", "one two", 10, "one two"},
		{"at the limit", "aaaa bbbbb", 10, "aaaa bbbbb"},
		{"above the limit", "aaaa bbbbbb", 10, "aaaa\nbbbbbb"},
		{"lines are joined", "aa\nbb", 10, "aa bb"},
		{"paragraphs are not", "aa\n\nbb", 10, "aa\n\nbb"},
		{"tables stay", "aa\n  b  c is longer\n  d\nee", 10, "aa\n  b  c is longer\n  d\nee"},
		{"long words stay whole", "aaaaaaaaaaaaaa b", 10, "aaaaaaaaaaaaaa\nb"},
		{"runes, not bytes", "éééé ééééé", 10, "éééé ééééé"},
	} {
		if got := foldText(tt.text, tt.columns); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"peer", "peer", 0}, {"pear", "peer", 1}, {"per", "peer", 1}, {"peeer", "peer", 1}, {"", "ab", 2}, {"up", "down", 4}} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("%q to %q: %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}
