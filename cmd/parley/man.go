package main

import (
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	safe "github.com/parley-bt/parley/cmd/parley/internal/term"
)

func (a *app) manCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "man DIR",
		Short: "Write the man pages into a folder",
		Long: `Write the man pages of parley and its commands into the folder DIR, which is created if it is missing.
The pages are dated by SOURCE_DATE_EPOCH if that is set, so that builds can be repeated.`,
		Example: "  parley man ~/.local/share/man/man1",
		Args:    wants(1, "DIR"),
	}
	cmd.RunE = a.runs(func(_ context.Context, args []string) error {
		date := time.Now()
		if epoch := os.Getenv("SOURCE_DATE_EPOCH"); epoch != "" {
			sec, err := strconv.ParseInt(epoch, 10, 64)
			if err != nil {
				return failf(exitUsage, "set it to seconds since 1970, or unset it", "SOURCE_DATE_EPOCH=%q: not a number", epoch)
			}
			date = time.Unix(sec, 0).UTC()
		}
		if err := os.MkdirAll(args[0], 0o777); err != nil {
			return manError(args[0], err)
		}
		root := cmd.Root()
		root.DisableAutoGenTag = true
		root.Long = verbatim(root.Long) + "\n\n# EXIT CODES\n\n" + verbatim(exitCodeText()) + "\n# JSON LINES\n\n" + verbatim(eventHelp)
		header := &doc.GenManHeader{Title: "PARLEY", Section: "1", Date: &date, Source: "parley " + readVersion().Version, Manual: "Parley"}
		if err := doc.GenManTree(root, header, args[0]); err != nil {
			return manError(args[0], err)
		}
		a.ui.say("man pages written to %s", safe.Escape(args[0]))
		return nil
	})
	return cmd
}

// manError is the error for a folder that man pages cannot be written to.
func manError(dir string, err error) error {
	return failf(exitStorage, "name another folder", "man pages in %s: %w", dir, err)
}

// verbatim indents the indented lines of a help text so far that Markdown, from which man pages are made, keeps their layout.
func verbatim(text string) string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, "  ") {
			lines[i] = "    " + l
		}
	}
	return strings.Join(lines, "\n")
}
