package main

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// widestHelp is how many columns a help text uses of a terminal that is wider: longer lines are hard to read.
const widestHelp = 120

// fitHelp lays out the help of all commands for a terminal of so many columns; 0 leaves it as it is.
func fitHelp(root *cobra.Command, columns int) {
	if columns <= 0 {
		return
	}
	columns = min(columns, widestHelp)
	t := root.UsageTemplate()
	for _, flags := range []string{".LocalFlags.FlagUsages", ".InheritedFlags.FlagUsages"} {
		t = strings.ReplaceAll(t, flags, fmt.Sprintf("%sWrapped %d", flags, columns))
	}
	root.SetUsageTemplate(t)
	root.Long = foldText(root.Long, columns)
	for _, cmd := range root.Commands() {
		cmd.Long = foldText(cmd.Long, columns)
	}
}

// foldText breaks the paragraphs of a text anew, into lines of at most so many columns where words allow it. Indented lines, which are tables and examples, stay as they
// are.
func foldText(text string, columns int) string {
	var b strings.Builder
	used := 0 // columns of the line being written; 0 at its beginning
	end := func() {
		if used > 0 {
			b.WriteByte('\n')
			used = 0
		}
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || line[0] == ' ' {
			end()
			b.WriteString(line)
			b.WriteByte('\n')
			continue
		}
		for word := range strings.FieldsSeq(line) {
			n := utf8.RuneCountInString(word)
			if used > 0 && used+1+n > columns {
				end()
			}
			if used > 0 {
				b.WriteByte(' ')
				used++
			}
			b.WriteString(word)
			used += n
		}
	}
	end()
	return strings.TrimSuffix(b.String(), "\n")
}
