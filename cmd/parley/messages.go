package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-bt/parley"
)

// The bounds of what messages can be (EMP/1 sections 6.2 and 7.3, table 7.6).
const (
	// maxPlainBytes is the largest message in a plain BEP 10 frame: what deployed clients take.
	maxPlainBytes = 65_534
	// maxMessageBytes is the largest message that there is.
	maxMessageBytes = 16 << 20
	// messageCost is what a message takes of a window beyond its length.
	messageCost = 64
	// minWindow and maxWindow bound --window.
	minWindow, maxWindow = 65_600, 1<<31 - 1
	// usualRequests is --req unless it is given.
	usualRequests = 64
	maxRequests   = 1_000_000
	// maxMemory bounds --memory.
	maxMemory = 1 << 30
)

// typeHelp says what --type is, for the help of listen and send.
const typeHelp = `A type has a name, and versions from 0 to 255: chat is version 0, chat:2 version 2, chat:1-3 all from 1 to 3. Only digits behind the last
colon are versions: urn:chat is a name, and urn:5 is written urn:5:0.`

// A typeSpec is a value of --type: a message type, and the versions of it that this side receives and sends.
type typeSpec struct {
	name     string
	min, max uint8
}

// parseType reads a value of --type.
func parseType(v string) (t typeSpec, err error) {
	const hint = "such as --type example_chat, or with the versions from 0 to 255 that this side knows: --type example_chat:2 or --type example_chat:1-3"
	t.name = v
	if at := strings.LastIndexByte(v, ':'); at >= 0 && strings.Trim(v[at+1:], "0123456789-") == "" {
		low, high, ranged := strings.Cut(v[at+1:], "-")
		if !ranged {
			high = low
		}
		bounds := [2]uint64{}
		for i, s := range []string{low, high} {
			if bounds[i], err = strconv.ParseUint(s, 10, 8); err != nil {
				return t, failf(exitUsage, hint+"; a name that ends like that is written with its version: "+pasteLine("--type", v+":0"),
					"--type %q: %q behind the last colon is no version, nor two with a dash between them", v, v[at+1:])
			}
		}
		if bounds[0] > bounds[1] {
			return t, failf(exitUsage, fmt.Sprintf("write the lower one first: --type %s:%d-%d", v[:at], bounds[1], bounds[0]), "--type %q: version %d is above version %d", v, bounds[0], bounds[1])
		}
		t.name, t.min, t.max = v[:at], uint8(bounds[0]), uint8(bounds[1])
	}
	if parley.CheckTypeName(t.name) != nil {
		return t, failf(exitUsage, "choose a name of your own, such as example_chat", "--type %q: %s", v, typeNameRule)
	}
	return t, nil
}

// String returns what parseType reads as t, as short as can be.
func (t typeSpec) String() string {
	if again, err := parseType(t.name); err == nil && again == t {
		return t.name
	}
	if t.min == t.max {
		return fmt.Sprintf("%s:%d", t.name, t.min)
	}
	return fmt.Sprintf("%s:%d-%d", t.name, t.min, t.max)
}

// versionsText names versions for people: "version 2", "versions 1 to 3".
func versionsText(low, high uint8) string {
	if low == high {
		return fmt.Sprintf("version %d", low)
	}
	return fmt.Sprintf("versions %d to %d", low, high)
}

// messageFlags are the flags of the commands that exchange messages.
type messageFlags struct {
	max, window, replyMax string
	noEMP                 bool
	full                  bool

	// Only where the command has the flags.
	req         int
	memory      string
	handlerTime time.Duration

	// By check.
	maxBytes, windowBytes, replyBytes, memoryBytes int
	requests                                       int
}

func (f *messageFlags) add(cmd *cobra.Command, maxUsage, replyUsage string) {
	fl := cmd.Flags()
	fl.StringVar(&f.max, "max", "", maxUsage)
	fl.StringVar(&f.window, "window", "", "let a peer send `BYTES` of messages ahead of their handlers, each counted with 64 bytes more; at least 65600, by default enough for some of the largest")
	fl.StringVar(&f.replyMax, "reply-max", "", replyUsage)
	fl.BoolVar(&f.full, "full", false, "print messages of more than 64 KiB whole too, not only their beginning, size and SHA-256")
	fl.BoolVar(&f.noEMP, "no-emp", false, "exchange messages in plain BEP 10 frames only: without versions, requests and flow control")
	noFiles(cmd, "max", "window", "reply-max")
}

// check reads the flags; usualMax is what --max is by default. Flags that are given and have no effect with --no-emp are refused, enhanced naming more of them.
func (f *messageFlags) check(cmd *cobra.Command, usualMax int, types []typeSpec, enhanced ...string) error {
	if f.noEMP {
		for _, name := range append(enhanced, "window", "reply-max") {
			if cmd.Flags().Changed(name) {
				return failf(exitUsage, "leave one of them out", "--%s has no effect with --no-emp: plain BEP 10 frames have neither versions nor requests nor flow control", name)
			}
		}
		for _, t := range types {
			if t.min > 0 {
				return failf(exitUsage, "leave --no-emp out, or let the versions begin at 0", "--type %q: with --no-emp there is no version but 0", t)
			}
		}
	}
	var err error
	size := func(name, value string, least, most, usual int) (n int) {
		if err == nil && value != "" {
			n, err = parseSize("--"+name, value, least, most)
			return n
		}
		return usual
	}
	f.windowBytes = size("window", f.window, minWindow, maxWindow, 0)
	f.replyBytes = size("reply-max", f.replyMax, 1, maxMessageBytes, maxMessageBytes)
	f.memoryBytes = size("memory", f.memory, 1, maxMemory, 0)
	if f.window != "" {
		usualMax = min(usualMax, f.windowBytes-messageCost)
	}
	f.maxBytes = size("max", f.max, 1, maxMessageBytes, usualMax)
	if err != nil {
		return err
	}
	if room := f.windowBytes - messageCost; f.window != "" && f.maxBytes > room {
		return failf(exitUsage, fmt.Sprintf("raise --window to %d or more, or leave it out; or take --max %d", f.maxBytes+messageCost, room),
			"--max %s: the window of --window %s has room for a message of %d bytes", f.max, f.window, room)
	}
	if f.req < 0 || f.req > maxRequests {
		return failf(exitUsage, "such as 64; 0 for none", "--req %d: want 0 to %d", f.req, maxRequests)
	}
	if f.requests = f.req; f.req == 0 {
		f.requests = -1
	}
	if f.handlerTime < 0 || f.handlerTime == 0 && cmd.Flags().Changed("handler-timeout") {
		return failf(exitUsage, "such as 30s", "--handler-timeout %s: must be more than 0", f.handlerTime)
	}
	return nil
}

// configure sets what the flags say of a client.
func (f *messageFlags) configure(cfg *parley.Config) {
	cfg.MaxMessageBytes = maxPlainBytes
	cfg.NoEMP = f.noEMP
	cfg.MessageWindowBytes = f.windowBytes
	cfg.MaxRequests = f.requests
	cfg.MessageMemoryBytes = f.memoryBytes
	cfg.HandlerTimeout = f.handlerTime
}

// parseTypes reads all values of --type.
func parseTypes(values []string) ([]typeSpec, error) {
	var types []typeSpec
	for _, v := range values {
		t, err := parseType(v)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(types, func(o typeSpec) bool { return o.name == t.name }) {
			return nil, failf(exitUsage, "name each --type once, with all its versions: --type NAME:MIN-MAX", "--type %q: given twice", t.name)
		}
		types = append(types, t)
	}
	return types, nil
}
