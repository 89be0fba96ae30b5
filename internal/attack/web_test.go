package attack_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/internal/attack"
)

// webAttack is a web seed (BEP 19) that does harm to a client that downloads from it and from an honest peer.
type webAttack struct {
	name, limit string
	off         string // what the reason for which it is given up, or left alone for now, says
	serve       func(f *field, w http.ResponseWriter, r *http.Request)
}

// part answers with the head of the part that was asked for, and returns its bounds.
func part(f *field, w http.ResponseWriter, r *http.Request) (from, to int) {
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); err != nil {
		to = len(f.content) - 1
	}
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(f.content)))
	return from, to
}

func endless(w http.ResponseWriter) {
	for b := make([]byte, 64<<10); ; {
		if _, err := w.Write(b); err != nil {
			return
		}
	}
}

var webAttacks = []webAttack{
	{"a web seed of corrupt data", "swarm.blame", "piece", func(f *field, w http.ResponseWriter, r *http.Request) {
		bad := bytes.Clone(f.content)
		for i := 0; i < len(bad); i += 1000 {
			bad[i]++
		}
		http.ServeContent(w, r, "x.bin", time.Time{}, bytes.NewReader(bad))
	}},
	{"a web seed whose bodies do not end", "swarm.blame", "piece", func(f *field, w http.ResponseWriter, r *http.Request) {
		part(f, w, r)
		w.WriteHeader(http.StatusPartialContent)
		endless(w)
	}},
	{"a web seed that sends another range", "webseed.ReplyError", "content range", func(f *field, w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes 1-70000/%d", len(f.content)))
		w.WriteHeader(http.StatusPartialContent)
		endless(w)
	}},
	{"a web seed with a file of 2^62 bytes", "webseed.ReplyError", "the file has", func(_ *field, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "4611686018427387904")
		endless(w)
	}},
	{"a web seed that sends crumbs", "webseed.maxShort", "less than it is asked for", func(f *field, w http.ResponseWriter, r *http.Request) {
		from, _ := part(f, w, r)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, from, len(f.content)))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(f.content[from : from+1])
	}},
	{"a web seed that packs what it sends", "webseed.ReplyError", "content encoding", func(f *field, w http.ResponseWriter, r *http.Request) {
		part(f, w, r)
		w.Header().Set("Content-Encoding", "gzip")
		w.WriteHeader(http.StatusPartialContent)
		endless(w)
	}},
	{"a web seed that redirects without end", "webseed.MaxRedirects", "redirects", func(_ *field, w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/"+strings.Repeat("x", len(r.URL.Path)%50), http.StatusFound)
	}},
}

// webSiege has a client download from an honest peer and several web seeds that do harm.
func (f *field) webSiege(t *testing.T, a webAttack, tb *attack.Table) {
	var asked atomic.Int64
	first := make(chan struct{}, 1000)
	var urls []string
	for range attack.Attackers {
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if asked.Add(1) < 1000 {
				first <- struct{}{}
			}
			a.serve(f, w, r)
		}))
		srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
		srv.Start()
		t.Cleanup(srv.Close)
		urls = append(urls, srv.URL+"/x.bin")
	}
	log := attack.NewRecords()
	victim := client(t, parley.Config{Logger: slog.New(log)})
	honest := client(t, parley.Config{})
	f.seed(t, honest, false)
	w := newWatch()
	tor, check := f.leechFrom(t, victim, false, parley.TorrentOptions{WebSeeds: urls})
	select {
	case <-first: // the honest peer comes while the attack lasts
	case <-within(t).Done():
		t.Fatal("no web seed has been asked")
	}
	began := time.Now()
	tor.AddPeers(honest.Addr())
	if err := tor.WaitComplete(within(t)); err != nil {
		t.Errorf("the honest peer is of no use: %v; %+v", err, tor.Stats())
	} else if err := check(); err != nil {
		t.Error(err)
	}
	rate := float64(len(f.content)) / time.Since(began).Seconds()
	given := 0
	for _, s := range tor.WebSeeds() {
		if s.Err == nil {
			continue // it was not asked before everything was there
		}
		given++
		if !matches(s.Err.Error(), a.off) {
			t.Errorf("%s: %v, want %q", s.URL, s.Err, a.off)
		}
	}
	if given == 0 {
		t.Error("no web seed was found out")
	}
	if n := asked.Load(); n > 400 {
		t.Errorf("%d requests", n)
	}
	memory := w.end(t)
	if loud := log.Loud(); len(loud) > logBound {
		t.Errorf("%d records in the log, want no more than %d; the first: %q", len(loud), logBound, loud[:5])
	}
	tb.Add(attack.Row{Name: a.name, Limit: a.limit, Outcome: fmt.Sprintf("%d of %d given up, %d requests", given, attack.Attackers, asked.Load()), Memory: memory,
		Rate: fmt.Sprintf("%.0f of %.0f MB/s", rate/1e6, f.calm[attack.Download]/1e6)})
}

func matches(text, words string) bool {
	for w := range strings.SplitSeq(words, "|") {
		if strings.Contains(text, w) {
			return true
		}
	}
	return false
}
