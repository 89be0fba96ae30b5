package main

import (
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/parley-bt/parley"
	safe "github.com/parley-bt/parley/cmd/parley/internal/term"
)

// webFlags are the flags about web seeds of a command that downloads.
type webFlags struct {
	urls []string
	none bool
}

func (f *webFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.urls, "web-seed", nil, "download from the web server at `URL` too, where the file is, or the folder that holds the torrent's; may be repeated")
	cmd.Flags().BoolVar(&f.none, "no-web-seeds", false, "leave web servers alone that the torrent or link names (BEP 19)")
	noFiles(cmd, "web-seed")
}

// check refuses a --web-seed that cannot be one.
func (f *webFlags) check() error {
	if f.none && len(f.urls) > 0 {
		return failf(exitUsage, "leave one of them out", "--web-seed and --no-web-seeds contradict each other")
	}
	for _, v := range f.urls {
		if !isWebSeed(v) {
			return failf(exitUsage, "--web-seed wants a URL, such as https://www.example.org/files/", "--web-seed %q: not an http or https URL", v)
		}
	}
	return nil
}

// isWebSeed reports whether v is a URL that can be a web seed's.
func isWebSeed(v string) bool {
	u, err := url.Parse(v)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != ""
}

// any reports whether there is a web seed to ask, given those of the torrent.
func (f *webFlags) any(named []string) bool { return !f.none && len(f.urls)+len(named) > 0 }

// webSeedEvent is of kind "web_seed_failed".
type webSeedEvent struct {
	torrentHead
	URL   string `json:"url"`
	Error string `json:"error"`
}

// noteWebSeed tells people what went wrong with a web seed. Its error names the file that was asked for, which a URL of the same file need not repeat.
func (l *sessionLog) noteWebSeed(ev parley.Event) {
	shown := ev.WebSeed
	if u, err := url.Parse(shown); err == nil {
		u.User, u.RawQuery = nil, "" // may be secret
		shown = u.String()
	}
	l.note("web seed %s: %s", safe.Clip(shown, 100), safe.Escape(strings.TrimPrefix(reason(ev.Err), shown+": ")))
}
