package wiretest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A Scenario is what two sides say and do, one after the other, as seen from one of them. The form of the files is described in wire/testdata/README.md.
type Scenario struct {
	Name  string
	Steps []Step
}

// A Step is one line of a scenario.
type Step struct {
	At    string // file and line, for messages
	Kind  string // "<" and ">" have Bytes, the others Value or Text
	Bytes []byte
	Value Value
	Text  string
}

// LoadScenarios reads all scenarios below dir. It fails the test if there are none.
func LoadScenarios(t testing.TB, dir string) []Scenario {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var all []Scenario
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		s, err := ParseScenarios(filepath.Base(f), string(text))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s...)
	}
	if len(all) == 0 {
		t.Fatalf("no scenarios in %s", dir)
	}
	return all
}

// ParseScenarios reads the text of one file of scenarios; name is for messages.
func ParseScenarios(name, text string) ([]Scenario, error) {
	var all []Scenario
	seen := make(map[string]bool)
	for i, line := range strings.Split(text, "\n") {
		s := Step{At: fmt.Sprintf("%s:%d", name, i+1)}
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		var err error
		if line[0] == '<' || line[0] == '>' {
			s.Kind = line[:1]
			s.Bytes, err = appendBytes([]byte{}, strings.TrimLeft(line[1:], " "))
		} else {
			var rest string
			switch s.Kind, rest, _ = strings.Cut(line, ": "); s.Kind {
			case "scenario":
				if seen[rest] || rest == "" {
					return nil, fmt.Errorf("%s: second scenario %q, or one without a name", s.At, rest)
				}
				seen[rest] = true
				all = append(all, Scenario{Name: rest})
				continue
			case "we", "they", "got", "do", "window":
				s.Value, err = parseValue(rest)
			case "ends", "because":
				s.Text = rest
			default:
				return nil, fmt.Errorf("%s: no step begins with %q", s.At, s.Kind)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.At, err)
		}
		if len(all) == 0 {
			return nil, fmt.Errorf("%s: not behind a scenario's name", s.At)
		}
		sc := &all[len(all)-1]
		sc.Steps = append(sc.Steps, s)
	}
	return all, nil
}
