package proto

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/parley-bt/parley/bencode"
	"github.com/parley-bt/parley/bt"
)

const (
	msgAnnounceRequest = "http announce request"
	msgAnnounceReply   = "http announce reply"
	msgScrapeRequest   = "http scrape request"
	msgScrapeReply     = "http scrape reply"
)

var replyLimits = bencode.Limits{Bytes: MaxReplyBytes, Depth: 8}

// AppendAnnounceQuery appends a's query to dst, without a leading '?' or '&'.
func AppendAnnounceQuery(dst []byte, a *Announce) []byte {
	dst = appendEscaped(append(dst, "info_hash="...), a.InfoHash[:])
	dst = appendEscaped(append(dst, "&peer_id="...), a.PeerID[:])
	dst = strconv.AppendUint(append(dst, "&port="...), uint64(a.Port), 10)
	dst = strconv.AppendInt(append(dst, "&uploaded="...), a.Uploaded, 10)
	dst = strconv.AppendInt(append(dst, "&downloaded="...), a.Downloaded, 10)
	dst = strconv.AppendInt(append(dst, "&left="...), a.left(), 10)
	dst = append(dst, "&compact=1"...) // BEP 23
	dst = strconv.AppendUint(append(dst, "&key="...), uint64(a.Key), 16)
	if a.NumWant != 0 {
		dst = strconv.AppendInt(append(dst, "&numwant="...), int64(max(a.NumWant, 0)), 10)
	}
	if a.Event != EventNone {
		dst = append(append(dst, "&event="...), a.Event.String()...)
	}
	if a.TrackerID != "" {
		dst = appendEscaped(append(dst, "&trackerid="...), []byte(a.TrackerID))
	}
	return dst
}

// appendEscaped writes every byte that is not unreserved (RFC 3986) as %XX.
func appendEscaped(dst, b []byte) []byte {
	const hex = "0123456789ABCDEF"
	for _, c := range b {
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '-', c == '.', c == '_', c == '~':
			dst = append(dst, c)
		default:
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		}
	}
	return dst
}

// QueryOptions is what an announce over HTTP says about the form of the reply and about the client's address.
type QueryOptions struct {
	Dictionaries bool       // "compact=0": peers as a list of dictionaries (BEP 3)
	NoPeerID     bool       // "no_peer_id=1": without peer ids in those
	IP           netip.Addr // "ip=", if it is an address; whether it counts is the server's decision
}

// ParseAnnounceQuery reads the query of an announce. The error is a [*SyntaxError], fit to be a failure reason.
func ParseAnnounceQuery(query string) (Announce, QueryOptions, error) {
	var a Announce
	var opt QueryOptions
	values, err := parseQuery(query, msgAnnounceRequest)
	if err != nil {
		return a, opt, err
	}
	bad := func(key string) error { return syntax(msgAnnounceRequest, "%s is missing or wrong", key) }
	hash, id := values.Get("info_hash"), values.Get("peer_id")
	if len(hash) != len(a.InfoHash) {
		return a, opt, bad("info_hash")
	}
	if len(id) != len(a.PeerID) {
		return a, opt, bad("peer_id")
	}
	copy(a.InfoHash[:], hash)
	copy(a.PeerID[:], id)
	port, err := strconv.ParseUint(values.Get("port"), 10, 16)
	if err != nil {
		return a, opt, bad("port")
	}
	a.Port = uint16(port)
	for _, f := range []struct {
		key string
		to  *int64
	}{{"uploaded", &a.Uploaded}, {"downloaded", &a.Downloaded}, {"left", &a.Left}} {
		s := values.Get(f.key)
		if s == "" { // some clients leave them out; left=0 would then be a seed, which is what they report
			continue
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 0 {
			return a, opt, bad(f.key)
		}
		*f.to = n
	}
	switch values.Get("event") {
	case "", "empty": // BEP 3: "empty" is the same as not being present
	case "started":
		a.Event = EventStarted
	case "completed":
		a.Event = EventCompleted
	case "stopped":
		a.Event = EventStopped
	}
	if s := values.Get("numwant"); s != "" {
		n, err := strconv.ParseInt(s, 10, 32)
		switch {
		case err != nil:
			return a, opt, bad("numwant")
		case n == 0:
			a.NumWant = NoPeers
		case n > 0:
			a.NumWant = int(n)
		}
	}
	// Clients choose the key's form freely; ours is hexadecimal. Any other is no key.
	if key, err := strconv.ParseUint(values.Get("key"), 16, 32); err == nil {
		a.Key = uint32(key)
	}
	if s := values.Get("trackerid"); len(s) <= MaxTrackerIDBytes {
		a.TrackerID = s
	}
	opt.Dictionaries = values.Get("compact") == "0"
	opt.NoPeerID = values.Get("no_peer_id") == "1"
	if ip, err := netip.ParseAddr(values.Get("ip")); err == nil {
		opt.IP = ip.WithZone("").Unmap()
	}
	return a, opt, nil
}

func parseQuery(query, message string) (url.Values, error) {
	if len(query) > MaxQueryBytes {
		return nil, syntax(message, "query of %d bytes, want at most %d", len(query), MaxQueryBytes)
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, syntax(message, "the query is not well formed")
	}
	return values, nil
}

// AppendAnnounceReply appends r in compact form: IPv4 peers in "peers" (BEP 23), IPv6 peers in "peers6" (BEP 7).
func AppendAnnounceReply(dst []byte, r *AnnounceReply) []byte {
	var v4, v6 []byte
	for _, p := range r.Peers {
		if p.Addr().Is4() {
			v4 = appendPeer(v4, p)
		} else {
			v6 = appendPeer(v6, p)
		}
	}
	d := r.dict()
	d.SetBytes("peers", v4)
	if len(v6) > 0 {
		d.SetBytes("peers6", v6)
	}
	return d.Append(dst)
}

// AppendAnnounceReplyDictionaries appends r with its peers as a list of dictionaries (BEP 3). ids are the peers' ids in the
// same order, or nil to leave them out.
func AppendAnnounceReplyDictionaries(dst []byte, r *AnnounceReply, ids []bt.PeerID) []byte {
	list := []byte{'l'}
	for i, p := range r.Peers {
		list = bencode.AppendString(append(list, "d2:ip"...), p.Addr().String())
		if ids != nil {
			list = bencode.AppendBytes(append(list, "7:peer id"...), ids[i][:])
		}
		list = bencode.AppendInt(append(list, "4:port"...), int64(p.Port()))
		list = append(list, 'e')
	}
	d := r.dict()
	d.SetRaw("peers", append(list, 'e'))
	return d.Append(dst)
}

// dict returns the entries of r but for the peers.
func (r *AnnounceReply) dict() *bencode.Dict {
	d := new(bencode.Dict)
	d.SetInt("interval", int64(r.Interval/time.Second))
	if r.MinInterval > 0 {
		d.SetInt("min interval", int64(r.MinInterval/time.Second))
	}
	if r.TrackerID != "" {
		d.SetString("tracker id", r.TrackerID)
	}
	if r.Warning != "" {
		d.SetString("warning message", r.Warning)
	}
	if r.Seeders >= 0 {
		d.SetInt("complete", int64(r.Seeders))
	}
	if r.Leechers >= 0 {
		d.SetInt("incomplete", int64(r.Leechers))
	}
	if r.ExternalIP.IsValid() {
		d.SetBytes("external ip", r.ExternalIP.AsSlice())
	}
	return d
}

// AppendFailure appends the reply that refuses a request: BEP 3 "failure reason", with BEP 31 "retry in".
func AppendFailure(dst []byte, f *FailureError) []byte {
	d := new(bencode.Dict)
	d.SetString("failure reason", f.Reason)
	switch {
	case f.Never:
		d.SetString("retry in", "never")
	case f.RetryIn > 0:
		d.SetInt("retry in", int64((f.RetryIn+time.Minute-1)/time.Minute))
	}
	return d.Append(dst)
}

// ParseAnnounceReply reads the reply to an announce. The error is a [*FailureError] if the tracker refuses and a
// [*SyntaxError] if the bytes are no reply. Nothing in the result refers to body.
func ParseAnnounceReply(body []byte) (*AnnounceReply, error) {
	v, err := parseReply(body, msgAnnounceReply)
	if err != nil {
		return nil, err
	}
	r := &AnnounceReply{Seeders: -1, Leechers: -1}
	r.Interval, r.MinInterval = seconds(getInt(v, "interval", 0)), seconds(getInt(v, "min interval", 0))
	if n := getInt(v, "complete", -1); n >= 0 {
		r.Seeders = count(n)
	}
	if n := getInt(v, "incomplete", -1); n >= 0 {
		r.Leechers = count(n)
	}
	if id := getBytes(v, "tracker id"); len(id) <= MaxTrackerIDBytes {
		r.TrackerID = string(id)
	}
	r.Warning = cleanText(getBytes(v, "warning message"))
	if ip, ok := netip.AddrFromSlice(getBytes(v, "external ip")); ok { // BEP 24: 4 or 16 bytes
		r.ExternalIP = ip.Unmap()
	}
	peers, _ := v.Get("peers")
	switch peers.Kind() {
	case bencode.KindAbsent: // only IPv6 peers, or none
	case bencode.KindString:
		b, _ := peers.Bytes()
		if len(b)%6 != 0 {
			return nil, syntax(msgAnnounceReply, "peers: %d bytes are no multiple of 6", len(b))
		}
		r.Peers = make([]netip.AddrPort, 0, min(len(b)/6, MaxPeers))
		r.takePeers(b, 6)
	case bencode.KindList:
		for p := range peers.List() {
			// BEP 3 allows a name for "ip". Resolving what a stranger lists would make us ask a stranger's name
			// server, so only addresses are taken.
			addr, err := netip.ParseAddr(string(limit(getBytes(p, "ip"), 64)))
			r.takePeer(addr, getInt(p, "port", 0), err == nil)
		}
	default:
		return nil, syntax(msgAnnounceReply, "peers: %v, want a string or a list", peers.Kind())
	}
	if b := getBytes(v, "peers6"); len(b)%18 != 0 {
		return nil, syntax(msgAnnounceReply, "peers6: %d bytes are no multiple of 18", len(b))
	} else {
		r.takePeers(b, 18)
	}
	return r, nil
}

// parseReply reads the dictionary of a reply, and the failure in it.
func parseReply(body []byte, message string) (bencode.Value, error) {
	// What follows the dictionary, a line break as a rule, does not matter.
	v, _, err := bencode.Parse(body, replyLimits)
	if err != nil {
		return v, syntax(message, "%v", err)
	}
	if v.Kind() != bencode.KindDict {
		return v, syntax(message, "%v, want a dictionary", v.Kind())
	}
	reason, ok := v.Get("failure reason")
	if !ok {
		return v, nil
	}
	text, _ := reason.Bytes()
	f := &FailureError{Reason: cleanText(text)}
	retry, _ := v.Get("retry in") // BEP 31: minutes or "never"
	minutes, _ := retry.Int()
	if s, ok := retry.Bytes(); ok {
		f.Never = string(s) == "never"
		// Written as a string by some; anything else is not said.
		if n, err := strconv.ParseInt(string(limit(s, 10)), 10, 32); err == nil {
			minutes = n
		}
	}
	f.RetryIn = seconds(min(max(minutes, 0), maxSeconds/60) * 60)
	return v, f
}

func limit(b []byte, n int) []byte { return b[:min(len(b), n)] }

func getInt(v bencode.Value, key string, absent int64) int64 {
	e, _ := v.Get(key)
	if n, ok := e.Int(); ok {
		return n
	}
	return absent
}

func getBytes(v bencode.Value, key string) []byte {
	e, _ := v.Get(key)
	b, _ := e.Bytes()
	return b
}

// ScrapePath returns the path of a tracker's scrape for the (escaped) path of its announce: BEP 48, the text after the last
// slash must begin with "announce", which becomes "scrape". False if the tracker has none.
func ScrapePath(announce string) (string, bool) {
	i := strings.LastIndexByte(announce, '/') + 1
	rest, ok := strings.CutPrefix(announce[i:], "announce")
	if i == 0 || !ok {
		return "", false
	}
	return announce[:i] + "scrape" + rest, true
}

// AppendScrapeQuery appends the query that asks about hashes, without a leading '?' or '&'.
func AppendScrapeQuery(dst []byte, hashes []bt.InfoHash) []byte {
	for i, h := range hashes {
		if i > 0 {
			dst = append(dst, '&')
		}
		dst = appendEscaped(append(dst, "info_hash="...), h[:])
	}
	return dst
}

// ParseScrapeQuery reads the query of a scrape. One that asks about everything, or about more than [MaxScrape] torrents, is
// an error, a [*SyntaxError] that is fit to be a failure reason.
func ParseScrapeQuery(query string) ([]bt.InfoHash, error) {
	values, err := parseQuery(query, msgScrapeRequest)
	if err != nil {
		return nil, err
	}
	all := values["info_hash"]
	if len(all) == 0 || len(all) > MaxScrape {
		return nil, syntax(msgScrapeRequest, "%d info-hashes, want 1 to %d", len(all), MaxScrape)
	}
	hashes := make([]bt.InfoHash, len(all))
	for i, s := range all {
		if len(s) != len(hashes[i]) {
			return nil, syntax(msgScrapeRequest, "info_hash of %d bytes, want %d", len(s), len(hashes[i]))
		}
		copy(hashes[i][:], s)
	}
	return hashes, nil
}

// AppendScrapeReply appends the reply that lists counts (BEP 48).
func AppendScrapeReply(dst []byte, counts []Counts) []byte {
	var files bencode.Dict
	var one []byte
	for _, c := range counts {
		one = bencode.AppendInt(append(one[:0], "d8:complete"...), int64(c.Seeders))
		one = bencode.AppendInt(append(one, "10:downloaded"...), int64(c.Downloaded))
		one = bencode.AppendInt(append(one, "10:incomplete"...), int64(c.Leechers))
		files.SetRaw(string(c.InfoHash[:]), append(one, 'e'))
	}
	dst = files.Append(append(dst, "d5:files"...))
	return append(dst, 'e')
}

// ParseScrapeReply reads what a scrape's reply says about the torrents asked, each at most once; others are ignored. The
// errors are as for [ParseAnnounceReply].
func ParseScrapeReply(body []byte, asked []bt.InfoHash) ([]Counts, error) {
	v, err := parseReply(body, msgScrapeReply)
	if err != nil {
		return nil, err
	}
	files, _ := v.Get("files")
	if files.Kind() != bencode.KindDict {
		return nil, syntax(msgScrapeReply, "files: %v, want a dictionary", files.Kind())
	}
	var all []Counts
	for key, f := range files.Dict() {
		if len(key) != bt.HashBytes {
			continue
		}
		c := Counts{InfoHash: bt.InfoHash(key), Seeders: count(getInt(f, "complete", 0)), Leechers: count(getInt(f, "incomplete", 0)),
			Downloaded: count(getInt(f, "downloaded", 0))}
		known := func(o Counts) bool { return o.InfoHash == c.InfoHash }
		if slices.Contains(asked, c.InfoHash) && !slices.ContainsFunc(all, known) {
			all = append(all, c)
		}
	}
	return all, nil
}
