package webseed

import (
	"net/url"
	"strings"

	"github.com/parley-bt/parley/internal/netdial"
	"github.com/parley-bt/parley/metainfo"
)

// MaxURLBytes is the longest URL of a web seed that is used.
const MaxURLBytes = 2048

// URLError says why a URL is not a web seed's.
type URLError struct{ Reason string }

// Error returns the reason.
func (e *URLError) Error() string { return "web seed URL: " + e.Reason }

// ParseURL checks a web seed's URL: http or https, a host, a usable port, at most [MaxURLBytes]. The error is a [*URLError].
func ParseURL(raw string) (*url.URL, error) {
	if len(raw) > MaxURLBytes {
		return nil, &URLError{"too long: want at most 2048 bytes"}
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, &URLError{"not a URL"} // what it is may be a secret
	}
	u.Fragment, u.RawFragment = "", ""
	port, err := netdial.PortOf(u)
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, &URLError{"neither http nor https"} // BEP 19 has ftp too, which nobody serves any more
	case u.Hostname() == "":
		return nil, &URLError{"no host"}
	case err != nil || port == 0:
		return nil, &URLError{"no usable port"}
	}
	return u, nil
}

// Display returns u in ASCII and without what may be secret: user, password and query.
func Display(u *url.URL) string {
	plain := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	return plain.String()
}

// fileURL returns where file i of a torrent is (BEP 19): the URL itself for the file of a single-file torrent, or below it if it ends with a slash; below
// the folder of the torrent's name otherwise. A query stays behind the path. It returns nil for a file whose path would lead elsewhere.
func fileURL(base *url.URL, info *metainfo.Info, i int) *url.URL {
	var elements []string
	at := base.EscapedPath()
	switch {
	case !info.SingleFile:
		elements = append([]string{info.Name}, info.Files[i].Path...)
	case at == "" || strings.HasSuffix(at, "/"):
		elements = []string{info.Name}
	default:
		return base
	}
	var b strings.Builder
	b.WriteString(strings.TrimSuffix(at, "/"))
	for _, e := range elements {
		if e == "" || e == "." || e == ".." {
			return nil // a server would take it for another folder
		}
		b.WriteByte('/')
		escape(&b, e)
	}
	u := *base
	path, err := url.PathUnescape(b.String())
	if err != nil {
		return nil
	}
	u.Path, u.RawPath = path, b.String()
	return &u
}

// escape writes an element of a path, all but the unreserved characters of RFC 3986 in hexadecimal: some servers take a plus sign for a space, and a
// slash within a name is none.
func escape(b *strings.Builder, element string) {
	const hex = "0123456789ABCDEF"
	for k := range len(element) {
		c := element[k]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_', c == '~':
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
}
