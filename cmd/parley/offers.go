package main

import (
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/parley-bt/parley"
	safe "github.com/parley-bt/parley/cmd/parley/internal/term"
)

// peerTypesEvent says what a peer receives, and what of that this side sends.
type peerTypesEvent struct {
	peerEvent
	Receives    []offeredType `json:"receives"`
	WindowBytes *int          `json:"window_bytes,omitempty"` // these two where the dialect has flow control
	Requests    *int          `json:"requests,omitempty"`
}

// offeredType is one message type that a peer receives.
type offeredType struct {
	Type       string `json:"type"`
	Enhanced   bool   `json:"enhanced"`
	MinVersion uint8  `json:"min_version"`
	MaxVersion uint8  `json:"max_version"`
	MaxBytes   int    `json:"max_bytes"`
	Version    *uint8 `json:"version,omitempty"` // in which this side sends it; nil if in none
}

// offers returns what a peer receives; ours are the types of this side.
func offers(p parley.Peer, ours []*parley.Type) []offeredType {
	all := []offeredType{} // [] rather than null
	for _, t := range p.TypeInfos() {
		o := offeredType{Type: t.Name, Enhanced: t.Enhanced, MinVersion: t.MinVersion, MaxVersion: t.MaxVersion, MaxBytes: t.MaxBytes}
		for _, ty := range ours {
			if v, ok := ty.Version(p); ok && ty.Name() == t.Name {
				o.Version = &v
			}
		}
		all = append(all, o)
	}
	return all
}

// typesEvent adds to the line of a peer what it receives.
func typesEvent(e peerEvent, p parley.Peer, ours []*parley.Type) peerTypesEvent {
	out := peerTypesEvent{peerEvent: e, Receives: offers(p, ours)}
	if l, ok := p.MessageLimits(); ok {
		out.WindowBytes, out.Requests = &l.WindowBytes, &l.Requests
	}
	return out
}

// mostListed is how many types of one peer people are shown.
const mostListed = 20

// offersTable shows people what a peer receives; empty if that is nothing. It is escaped.
func offersTable(p parley.Peer, ours []*parley.Type) string {
	all := offers(p, ours)
	if len(all) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "peer %s speaks %s%s", p, p.Info().Dialect, helloText(p))
	if l, ok := p.MessageLimits(); ok {
		fmt.Fprintf(&b, ": window %s, %s at once", sizeText(int64(l.WindowBytes)), plural(l.Requests, "request"))
	}
	b.WriteByte('\n')
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  RECEIVES\tVERSIONS\tLARGEST\tSENT AS")
	for i, o := range all {
		if i == mostListed {
			fmt.Fprintf(w, "  and %d more\n", len(all)-mostListed)
			break
		}
		versions, sent := "-", "-"
		if o.Enhanced {
			versions = strconv.Itoa(int(o.MinVersion))
			if o.MaxVersion > o.MinVersion {
				versions += "-" + strconv.Itoa(int(o.MaxVersion))
			}
		}
		switch {
		case o.Version != nil && o.Enhanced:
			sent = "version " + strconv.Itoa(int(*o.Version))
		case o.Version != nil:
			sent = "BEP 10 frame"
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", safe.Clip(o.Type, 32), versions, sizeText(int64(o.MaxBytes)), sent)
	}
	if err := w.Flush(); err != nil { // cannot be: it writes to memory
		return ""
	}
	return strings.TrimSuffix(b.String(), "\n")
}
