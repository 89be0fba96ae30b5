package main

import (
	"context"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/parley-bt/parley"
)

type versionEvent struct {
	head
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  wants(0, ""),
		RunE: a.runs(func(context.Context, []string) error {
			v := readVersion()
			a.ui.event(v)
			rev := ""
			if v.Revision != "" {
				rev = " (" + v.Revision + ")"
			}
			a.ui.say("parley %s%s, %s, %s", v.Version, rev, v.Go, v.Platform)
			return nil
		}),
	}
}

// readVersion returns the version, which peers are told too, and what the build has recorded about itself.
func readVersion() versionEvent {
	v := versionEvent{head: now("version"), Version: parley.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	bi, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	dirty := ""
	for _, s := range bi.Settings {
		switch {
		case s.Key == "vcs.revision":
			v.Revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = ", modified"
		}
	}
	switch {
	case v.Revision != "":
		v.Revision += dirty
	case bi.Main.Version != "(devel)": // installed from a module proxy
		v.Revision = bi.Main.Version
	}
	return v
}
