package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// valueKinds says what a flag's value is to be, by the name of its type.
var valueKinds = map[string]string{
	"duration": "a time with its unit, such as 90s, 5m or 1h30m",
	"int":      "a whole number",
	"float64":  "a number, such as 2 or 1.5",
	"bool":     "true or false",
}

// flagError says what is wrong with the flags of a command line. It is for people who do not know how flags are parsed.
func flagError(cmd *cobra.Command, err error) error {
	help := `run "` + cmd.CommandPath() + ` --help" for its flags; what begins with "-" and is no flag comes last, after "--"`
	if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		if want := valueKinds[e.GetFlag().Value.Type()]; want != "" {
			return failf(exitUsage, `run "`+cmd.CommandPath()+` --help" for its flags`, "--%s %q: want %s", e.GetFlag().Name, e.GetValue(), want)
		}
	}
	if e, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		value, usage := pflag.UnquoteUsage(e.GetFlag())
		return failf(exitUsage, "--"+e.GetFlag().Name+": "+usage, "--%s: its value %s is missing", e.GetFlag().Name, value)
	}
	if e, ok := errors.AsType[*pflag.NotExistError](err); ok && e.GetSpecifiedShortnames() == "" {
		if near := nearFlag(cmd, e.GetSpecifiedName()); near != "" {
			return failf(exitUsage, "did you mean --"+near+"? "+help, "%w", err)
		}
	}
	return failf(exitUsage, help, "%w", err)
}

// nearFlag returns the flag of a command whose name is most like name, empty if none is.
func nearFlag(cmd *cobra.Command, name string) (near string) {
	if len(name) > 40 {
		return "" // no flag is that long, and comparing takes time
	}
	best := min(3, len(name)) // a misspelling, not another word
	try := func(f *pflag.Flag) {
		d := distance(name, f.Name)
		if len(name) >= 3 && strings.HasPrefix(f.Name, name) {
			d = 1
		}
		if d < best && !f.Hidden {
			near, best = f.Name, d
		}
	}
	cmd.LocalFlags().VisitAll(try)
	cmd.InheritedFlags().VisitAll(try)
	return near
}

// distance is how many bytes must be inserted, removed or replaced to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := before
			if a[i] != b[j] {
				cost = min(before, row[j], row[j+1]) + 1
			}
			before, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// missingFlag returns an error if a flag is missing that a command cannot do without.
func missingFlag(cmd *cobra.Command) (err error) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if len(f.Annotations[cobra.BashCompOneRequiredFlag]) > 0 && !f.Changed && err == nil {
			value, usage := pflag.UnquoteUsage(f)
			err = failf(exitUsage, "usage: parley "+cmd.Use, "%s: --%s %s is missing: %s", cmd.Name(), f.Name, value, usage)
		}
	})
	return err
}
