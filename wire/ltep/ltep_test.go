package ltep_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/parley-bt/parley/bencode"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

const vectorsDir = "../testdata/vectors/ltep"

func buildExchange(v wiretest.Value) (e ltep.Exchange, err error) {
	r := v.Read()
	addr := func(name string) netip.Addr {
		if s := r.Texts(name); len(s) > 0 {
			return netip.MustParseAddr(s[0])
		}
		return netip.Addr{}
	}
	for _, m := range r.Texts("m") {
		name, err := strconv.QuotedPrefix(m)
		if err != nil {
			return e, fmt.Errorf("m=%s: %w", m, err)
		}
		id, err := strconv.ParseUint(strings.TrimPrefix(m[len(name):], ":"), 10, 8)
		if err != nil {
			return e, fmt.Errorf("m=%s: %w", m, err)
		}
		name, _ = strconv.Unquote(name)
		e.M = append(e.M, ltep.Entry{Name: name, ID: uint8(id)})
	}
	e.Client = string(r.Bytes("v"))
	e.Port = uint16(r.Uint("p"))
	e.ReqQ = int(r.Uint("reqq"))
	e.MetadataSize = int64(r.Uint("metadata_size"))
	e.UploadOnly = r.Uint("upload_only") == 1
	e.YourIP, e.IPv4, e.IPv6 = addr("yourip"), addr("ipv4"), addr("ipv6")
	e.EMP = r.Bytes("emp")
	return e, r.Err()
}

func buildMetadata(v wiretest.Value) (ltep.Metadata, error) {
	r := v.Read()
	m := ltep.Metadata{Type: ltep.MetadataType(r.Uint("type")), Piece: uint32(r.Uint("piece")), TotalSize: int64(r.Uint("total")), Data: r.Bytes("data")}
	return m, r.Err()
}

func buildPEX(v wiretest.Value) (p ltep.PEX, err error) {
	r := v.Read()
	for _, s := range r.Texts("added") {
		addr, err := strconv.QuotedPrefix(s)
		if err != nil {
			return p, fmt.Errorf("added=%s: %w", s, err)
		}
		f, err := strconv.ParseUint(strings.TrimPrefix(s[len(addr):], ":"), 0, 8)
		if err != nil {
			return p, fmt.Errorf("added=%s: %w", s, err)
		}
		p.Added = append(p.Added, ltep.PEXPeer{Addr: netip.MustParseAddrPort(strings.Trim(addr, `"`)), Flags: ltep.PEXFlags(f)})
	}
	for _, s := range r.Texts("dropped") {
		p.Dropped = append(p.Dropped, netip.MustParseAddrPort(strings.Trim(s, `"`)))
	}
	return p, r.Err()
}

func TestVectors(t *testing.T) {
	for _, v := range wiretest.Load(t, vectorsDir) {
		t.Run(v.Name, func(t *testing.T) {
			var got, want any
			var wrote []byte
			var err, verr error
			switch {
			case strings.HasPrefix(v.File, "exchange.txt:"):
				var e ltep.Exchange
				got, err = ltep.ParseExchange(v.Bytes)
				e, verr = buildExchange(v.Means)
				want = e
				e.M = slices.Clone(e.M) // written in order, whatever the order given
				slices.Reverse(e.M)
				wrote = ltep.AppendExchange([]byte("."), &e)
			case strings.HasPrefix(v.File, "metadata.txt:"):
				var m ltep.Metadata
				got, err = ltep.ParseMetadata(v.Bytes)
				m, verr = buildMetadata(v.Means)
				want = m
				wrote = ltep.AppendMetadata([]byte("."), m)
			case strings.HasPrefix(v.File, "pex.txt:"):
				var p ltep.PEX
				got, err = ltep.ParsePEX(v.Bytes)
				p, verr = buildPEX(v.Means)
				want = p
				wrote = ltep.AppendPEX([]byte("."), p)
			case strings.HasPrefix(v.File, "donthave.txt:") && (v.Means.Kind == "donthave" || strings.HasSuffix(v.Fails, "not 4")):
				got, err = ltep.ParseDontHave(v.Bytes)
				r := v.Means.Read()
				m := ltep.DontHave{Index: bt.PieceIndex(r.Uint("index"))}
				want, verr = m, r.Err()
				wrote = ltep.AppendDontHave([]byte("."), m)
			case strings.HasPrefix(v.File, "donthave.txt:"):
				got, err = ltep.ParseUploadOnly(v.Bytes)
				r := v.Means.Read()
				m := ltep.UploadOnly{On: r.Uint("on") == 1}
				want, verr = m, r.Err()
				wrote = ltep.AppendUploadOnly([]byte("."), m)
			default:
				t.Fatalf("%s: nobody checks this file", v.File)
			}
			if v.Fails != "" {
				wiretest.WantFailure(t, err, v.Fails)
				return
			}
			if verr != nil {
				t.Fatalf("%s: %v", v.File, verr)
			}
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: read as %+v, %v; want %+v", v.File, got, err, want)
			}
			if !v.ReadOnly && string(wrote) != "."+string(v.Bytes) {
				t.Errorf("%s: written as %q, want %q", v.File, wrote[1:], v.Bytes)
			}
		})
	}
}

// The ids under which the codec of these tests accepts extensions.
const (
	metadataID   = 3
	pexID        = 4
	dontHaveID   = 5
	uploadOnlyID = 6
)

// codec is the dialect as a whole: classic frames, the exchange, and ut_metadata under an id given out.
func codec() wiretest.Codec {
	var d classic.Decoder
	extended := func(dst []byte, id uint8, payload []byte) []byte {
		return classic.AppendExtended(dst, wire.Extended{ID: id, Payload: payload})
	}
	return wiretest.Codec{
		Dialect: wire.DialectLTEP,
		Unsupported: []wire.Kind{ // those of classic, whose own test has them
			wire.KindUnknown, wire.KindKeepAlive, wire.KindChoke, wire.KindUnchoke, wire.KindInterested, wire.KindNotInterested, wire.KindHave,
			wire.KindBitfield, wire.KindRequest, wire.KindPiece, wire.KindCancel, wire.KindPort, wire.KindSuggest, wire.KindHaveAll,
			wire.KindHaveNone, wire.KindReject, wire.KindAllowedFast, wire.KindHashRequest, wire.KindHashes, wire.KindHashReject,
		},
		Tolerant: []wire.Kind{wire.KindExchange, wire.KindMetadata, wire.KindPEX, wire.KindUploadOnly},
		Samples: []wire.Message{
			wire.Extended{ID: 77, Payload: []byte("x")},
			ltep.Exchange{M: []ltep.Entry{{Name: "a", ID: 1}, {Name: "b", ID: 255}}, Client: "c", Port: 1, ReqQ: 2, MetadataSize: 3, UploadOnly: true,
				YourIP: netip.MustParseAddr("::1"), IPv4: netip.MustParseAddr("10.0.0.1"), IPv6: netip.MustParseAddr("2001:db8::1"),
				EMP: []byte("d1:vi1ee")},
			ltep.Metadata{Type: ltep.MetadataRequest, Piece: 7},
			ltep.Metadata{Type: ltep.MetadataData, Piece: 7, TotalSize: 1 << 20, Data: []byte("data")},
			ltep.Metadata{Type: ltep.MetadataReject, Piece: 7},
			ltep.PEX{Added: []ltep.PEXPeer{{Addr: netip.MustParseAddrPort("192.0.2.1:1"), Flags: ltep.PEXUploadOnly},
				{Addr: netip.MustParseAddrPort("[2001:db8::1]:2"), Flags: ltep.PEXReachable}},
				Dropped: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.2:3"), netip.MustParseAddrPort("[2001:db8::2]:65535")}},
			ltep.DontHave{Index: 1 << 31},
			ltep.UploadOnly{On: true},
		},
		Append: func(dst []byte, m wire.Message) ([]byte, error) {
			switch m := m.(type) {
			case wire.Extended:
				return extended(dst, m.ID, m.Payload), nil
			case ltep.Exchange:
				return extended(dst, ltep.ExchangeID, ltep.AppendExchange(nil, &m)), nil
			case ltep.Metadata:
				return extended(dst, metadataID, ltep.AppendMetadata(nil, m)), nil
			case ltep.PEX:
				return extended(dst, pexID, ltep.AppendPEX(nil, m)), nil
			case ltep.DontHave:
				return extended(dst, dontHaveID, ltep.AppendDontHave(nil, m)), nil
			case ltep.UploadOnly:
				return extended(dst, uploadOnlyID, ltep.AppendUploadOnly(nil, m)), nil
			case wire.KeepAlive:
				return classic.AppendKeepAlive(dst), nil
			case wire.Unknown:
				return append(binary.BigEndian.AppendUint32(dst, uint32(len(m.Payload)+1)), append([]byte{m.ID}, m.Payload...)...), nil
			}
			return nil, fmt.Errorf("no way to write %T", m)
		},
		Decode: func(frame []byte) (wire.Message, error) {
			m, err := d.Decode(frame)
			if e, ok := m.(*wire.Extended); ok && err == nil {
				switch e.ID {
				case ltep.ExchangeID:
					x, err := ltep.ParseExchange(e.Payload)
					return x, err
				case metadataID:
					x, err := ltep.ParseMetadata(e.Payload)
					return x, err
				case pexID:
					x, err := ltep.ParsePEX(e.Payload)
					return x, err
				case dontHaveID:
					x, err := ltep.ParseDontHave(e.Payload)
					return x, err
				case uploadOnlyID:
					x, err := ltep.ParseUploadOnly(e.Payload)
					return x, err
				}
			}
			return m, err
		},
	}
}

func TestContract(t *testing.T) { codec().Test(t) }

func TestLimits(t *testing.T) {
	names := func(n int) []byte {
		b := []byte("d1:md")
		for i := range n {
			b = bencode.AppendInt(bencode.AppendString(b, fmt.Sprintf("%04d", i)), int64(i%256))
		}
		return append(b, "ee"...)
	}
	parse := func(b []byte) error {
		_, err := ltep.ParseExchange(b)
		return err
	}
	counts := func(want int, b []byte) error {
		if e, err := ltep.ParseExchange(b); err != nil || len(e.M) != want {
			return fmt.Errorf("%d entries, %v; want %d", len(e.M), err, want)
		}
		return nil
	}
	wiretest.TestLimits(t, []wiretest.Limit{
		{Name: "bytes of an exchange", At: wire.MaxExchangeBytes, Try: func(n int) error {
			b := append([]byte("d1:mde1:x"), fmt.Sprintf("%d:", n-len("d1:mde1:x")-len("65000:")-1)...)
			b = append(b, make([]byte, n-len(b)-1)...)
			return parse(append(b, 'e'))
		}},
		{Name: "bytes of an exchange, trailing ones included", At: wire.MaxExchangeBytes, Try: func(n int) error {
			return parse(append([]byte("d1:mdee"), make([]byte, n-7)...))
		}},
		{Name: "depth of an exchange", At: 8, Try: func(n int) error {
			return parse([]byte("d1:x" + strings.Repeat("l", n-1) + strings.Repeat("e", n-1) + "e"))
		}},
		{Name: "entries of m", At: wire.MaxTypeEntries, Try: func(n int) error { return counts(n, names(n)) }},
		{Name: "length of a name", At: wire.MaxTypeName, Try: func(n int) error {
			return counts(1, []byte("d1:md"+strconv.Itoa(n)+":"+strings.Repeat("n", n)+"i1eee"))
		}},
		{Name: "an id", At: 255, Try: func(n int) error { return counts(1, fmt.Appendf(nil, "d1:md1:ai%deee", n)) }},
		{Name: "a port", At: 65535, Try: func(n int) error {
			if e, _ := ltep.ParseExchange(fmt.Appendf(nil, "d1:pi%dee", n)); int(e.Port) != n {
				return fmt.Errorf("port %d", e.Port)
			}
			return nil
		}},
		{Name: "a name of an application type", At: wire.MaxTypeName, Try: func(n int) error {
			if !ltep.IsTypeName(strings.Repeat("n", n)) {
				return errors.New("no type name")
			}
			return nil
		}},
		{Name: "bytes of metadata", At: ltep.MetadataPieceBytes, Try: func(n int) error {
			_, err := ltep.ParseMetadata(append([]byte("d8:msg_typei1e5:piecei0ee"), make([]byte, n)...))
			return err
		}},
		{Name: "a piece of metadata", At: ltep.MaxMetadataBytes/ltep.MetadataPieceBytes - 1, Try: func(n int) error {
			_, err := ltep.ParseMetadata(fmt.Appendf(nil, "d8:msg_typei0e5:piecei%dee", n))
			return err
		}},
		{Name: "names in a session", At: wire.MaxTypeEntries, Try: func(n int) error {
			var table ltep.TheyUse
			for i := range n {
				if table.Apply([]ltep.Entry{{Name: strconv.Itoa(i), ID: 0}}) != true {
					return fmt.Errorf("name %d is ignored", i)
				}
			}
			return nil
		}},
	})
	// A huge reqq is cut, a long client name too.
	e, err := ltep.ParseExchange([]byte("d4:reqqi9223372036854775807e1:v200:" + strings.Repeat("x", 200) + "e"))
	if err != nil || e.ReqQ != 1<<20 || len(e.Client) != 128 {
		t.Errorf("reqq %d, client of %d bytes, %v", e.ReqQ, len(e.Client), err)
	}
}

// What is kept of an exchange must not alias the frame.
func TestExchangeOwnsItsMemory(t *testing.T) {
	b := []byte("d3:empd1:vi1ee1:md4:namei1ee1:v6:cliente")
	e, err := ltep.ParseExchange(b)
	if err != nil {
		t.Fatal(err)
	}
	clear(b)
	if e.M[0].Name != "name" || e.Client != "client" || string(e.EMP) != "d1:vi1ee" {
		t.Errorf("%+v after its frame was overwritten", e)
	}
}

func TestExchangeKeepsTheOrderReceived(t *testing.T) {
	e, err := ltep.ParseExchange([]byte("d1:md1:ci1e1:ai2e1:ci3e1:bi4e1:ai5eee"))
	if want := []ltep.Entry{{Name: "c", ID: 1}, {Name: "a", ID: 2}, {Name: "b", ID: 4}}; err != nil || !slices.Equal(e.M, want) {
		t.Errorf("%v, %v; want %v", e.M, err, want)
	}
}

func TestAppendExchangeIsCanonical(t *testing.T) {
	e := ltep.Exchange{M: []ltep.Entry{{Name: "ut_metadata", ID: 1}, {Name: "A", ID: 2}, {Name: "b", ID: 0}}, Client: "c", Port: 65535, ReqQ: 500,
		MetadataSize: 1 << 30, UploadOnly: true, YourIP: netip.MustParseAddr("192.0.2.1"), IPv6: netip.MustParseAddr("2001:db8::1"), EMP: []byte("d1:vi1ee")}
	v, rest, err := bencode.Parse(ltep.AppendExchange(nil, &e), bencode.Limits{})
	if err != nil || len(rest) > 0 || !v.Canonical() {
		t.Errorf("not canonical: %q, %v", v.Raw(), err)
	}
}

func TestTheyUse(t *testing.T) {
	type apply struct {
		m       []ltep.Entry
		changed bool
		want    map[string]uint8 // what is accepted after it
	}
	entries := func(s string) (m []ltep.Entry) {
		for f := range strings.FieldsSeq(s) {
			name, id, _ := strings.Cut(f, ":")
			n, err := strconv.ParseUint(id, 10, 8)
			if err != nil {
				t.Fatal(err)
			}
			m = append(m, ltep.Entry{Name: name, ID: uint8(n)})
		}
		return m
	}
	for name, steps := range map[string][]apply{
		"additive": {
			{entries("a:1 b:2"), true, map[string]uint8{"a": 1, "b": 2}},
			{entries("c:3"), true, map[string]uint8{"a": 1, "b": 2, "c": 3}},
			{entries("a:1"), false, map[string]uint8{"a": 1, "b": 2, "c": 3}},
			{nil, false, map[string]uint8{"a": 1, "b": 2, "c": 3}},
		},
		"0 withdraws, and the name may come back": {
			{entries("a:1"), true, map[string]uint8{"a": 1}},
			{entries("a:0"), true, map[string]uint8{}},
			{entries("a:0"), false, map[string]uint8{}},
			{entries("a:1"), true, map[string]uint8{"a": 1}},
		},
		"an id keeps its name": {
			{entries("a:1"), true, map[string]uint8{"a": 1}},
			{entries("b:1"), false, map[string]uint8{"a": 1}},
			{entries("a:0 b:1"), true, map[string]uint8{}},
			{entries("b:2"), true, map[string]uint8{"b": 2}},
		},
		"also within one exchange": {
			{entries("b:1 a:1"), true, map[string]uint8{"b": 1}},
		},
		"a name may change its id": {
			{entries("a:1"), true, map[string]uint8{"a": 1}},
			{entries("a:2"), true, map[string]uint8{"a": 2}},
			{entries("b:1"), false, map[string]uint8{"a": 2}},
		},
		"never offered and withdrawn": {
			{entries("a:0 b:0"), true, map[string]uint8{}}, // both have no name to keep: 0 is no id
		},
	} {
		t.Run(name, func(t *testing.T) {
			var table ltep.TheyUse
			for i, s := range steps {
				if changed := table.Apply(s.m); changed != s.changed {
					t.Errorf("step %d: changed %v", i, changed)
				}
				if got := maps.Collect(table.All()); !maps.Equal(got, s.want) {
					t.Errorf("step %d: accepts %v, want %v", i, got, s.want)
				}
				for n, id := range s.want {
					if table.ID(n) != id {
						t.Errorf("step %d: %s has id %d", i, n, table.ID(n))
					}
				}
				if table.ID("nobody's") != 0 {
					t.Errorf("step %d: an unknown name has an id", i)
				}
			}
			snap := table.Snapshot()
			table.Apply(entries("later:99"))
			if snap["later"] != 0 {
				t.Error("a snapshot changed")
			}
		})
	}
}

func TestTypes(t *testing.T) {
	var table ltep.TheyUse
	var m []ltep.Entry
	for i, n := range []string{"z/type", "ut_metadata", "emp_mux", "a b", "upload_only", "lt_donthave", "bad\x00name", "gone"} {
		m = append(m, ltep.Entry{Name: n, ID: uint8(i + 1)})
	}
	table.Apply(m)
	table.Apply([]ltep.Entry{{Name: "gone", ID: 0}})
	if got := table.Types(); !slices.Equal(got, []string{"a b", "z/type"}) {
		t.Errorf("types %q", got)
	}
}

func TestIsTypeName(t *testing.T) {
	for name, want := range map[string]bool{
		"chat": true, "org.example/chat": true, "ünïcode": true, "with space": true, "UT_x": true, "utx": true, "emp_mux2": true,
		"": false, "ut_pex": false, "ut_": false, "lt_x": false, "BT_CHOKE": false, "AZ_HANDSHAKE": false, "upload_only": false, "emp_mux": false,
		"a\nb": false, "\x1b[31m": false, "\x7f": false, "a\u0085b": false, "a\u2028b": false, "bad\xff": false,
	} {
		if got := ltep.IsTypeName(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
	if ltep.IsReserved("chat") || !ltep.IsReserved("emp_mux") || !ltep.IsReserved("ut_anything") {
		t.Error("reserved names")
	}
}

// ut_metadata passes without allocations, both ways.
func TestAllocs(t *testing.T) {
	data := make([]byte, ltep.MetadataPieceBytes)
	dst := make([]byte, 0, 20<<10)
	var failed error
	got := testing.AllocsPerRun(100, func() {
		dst = ltep.AppendMetadata(dst[:0], ltep.Metadata{Type: ltep.MetadataData, Piece: 1, TotalSize: 1 << 20, Data: data})
		if m, err := ltep.ParseMetadata(dst); err != nil || len(m.Data) != len(data) {
			failed = errors.Join(err, errors.New("metadata lost"))
		}
	})
	if got != 0 || failed != nil {
		t.Errorf("%v allocations, error %v", got, failed)
	}
	e := ltep.Exchange{M: []ltep.Entry{{Name: "b", ID: 1}, {Name: "a", ID: 2}}, Client: "client", Port: 1, YourIP: netip.MustParseAddr("192.0.2.1")}
	if got := testing.AllocsPerRun(100, func() { dst = ltep.AppendExchange(dst[:0], &e) }); got > 2 { // addresses are small slices
		t.Errorf("AppendExchange: %v allocations", got)
	}
}

func TestSharedVectors(t *testing.T) {
	checked := 0
	for _, v := range wiretest.LoadShared(t, "exchange.json") {
		switch {
		case strings.HasPrefix(v.Name, "build, "):
			continue // checked by package emp, which knows the key
		case v.Name == "decode: 33 exchanges":
			continue // checked by package peer
		case !strings.HasPrefix(v.Name, "decode: "):
			t.Errorf("nobody checks %q", v.Name)
			continue
		}
		var in struct {
			Exchanges []wiretest.Hex
			AfterVeil bool `json:"after_veil"`
		}
		var out struct {
			Applied []bool
			M       map[string]uint8
			Error   string
		}
		v.Unpack(t, &in, &out)
		if in.AfterVeil || out.Error != "" {
			continue // what the key "emp" makes of it is checked by package emp
		}
		var table ltep.TheyUse
		for i, payload := range in.Exchanges {
			e, err := ltep.ParseExchange(payload)
			if (err == nil) != out.Applied[i] {
				t.Errorf("%s: exchange %d: %v, want applied %v", v.Name, i, err, out.Applied[i])
			}
			table.Apply(e.M)
		}
		got := table.Snapshot()
		if !maps.Equal(got, out.M) {
			t.Errorf("%s: m %v, want %v", v.Name, got, out.M)
		}
		checked++
	}
	for _, v := range wiretest.LoadShared(t, "classic.json") {
		if v.Name != "ut_metadata" {
			continue
		}
		var in struct{ Info wiretest.Hex }
		var out map[string]any
		v.Unpack(t, &in, &out)
		want := func(name string) []byte {
			var h wiretest.Hex
			s, _ := out[name].(string)
			if err := h.UnmarshalText([]byte(s)); err != nil || len(h) == 0 {
				t.Fatalf("%s: %v (of %v)", name, err, slices.Collect(maps.Keys(out)))
			}
			return h
		}
		for name, m := range map[string]ltep.Metadata{
			"request": {Type: ltep.MetadataRequest},
			"data":    {Type: ltep.MetadataData, TotalSize: int64(len(in.Info)), Data: in.Info},
			"reject":  {Type: ltep.MetadataReject, Piece: 9},
		} {
			if got := ltep.AppendMetadata(nil, m); !bytes.Equal(got, want(name)) {
				t.Errorf("ut_metadata %s: written as %q, want %q", name, got, want(name))
			}
			if got, err := ltep.ParseMetadata(want(name)); err != nil || !reflect.DeepEqual(got, m) {
				t.Errorf("ut_metadata %s: read as %+v, %v", name, got, err)
			}
		}
		checked++
	}
	if checked < 20 {
		t.Errorf("only %d vectors found", checked)
	}
	t.Logf("checked %d vectors of a second implementation", checked)
}

func FuzzParseExchange(f *testing.F) {
	for _, v := range wiretest.Load(f, vectorsDir) {
		f.Add(v.Bytes)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		e, err := ltep.ParseExchange(payload)
		if err != nil {
			wiretest.WantFailure(t, err, "ltep")
			return
		}
		if len(e.M) > wire.MaxTypeEntries || len(e.EMP) > len(payload) || len(e.Client) > 3*128 || e.ReqQ < 0 || e.MetadataSize < 0 {
			t.Fatalf("beyond the limits: %+v", e)
		}
		names := make(map[string]bool)
		for _, m := range e.M {
			if names[m.Name] || len(m.Name) > wire.MaxTypeName {
				t.Fatalf("name %q twice or too long", m.Name)
			}
			names[m.Name] = true
		}
		// Read, written and read again it is the same, once sorted and cut to what is kept of a client's name.
		slices.SortFunc(e.M, func(a, b ltep.Entry) int { return strings.Compare(a.Name, b.Name) })
		again := ltep.AppendExchange(nil, &e)
		if len(again) > wire.MaxExchangeBytes || len(e.Client) > 128 {
			return
		}
		e2, err := ltep.ParseExchange(again)
		if err != nil || !reflect.DeepEqual(normal(e), normal(e2)) {
			t.Fatalf("%+v\nwritten as %q\nread as %+v, %v", e, again, e2, err)
		}
		e.EMP = nil // is written as it came
		again = ltep.AppendExchange(nil, &e)
		if v, _, err := bencode.Parse(again, bencode.Limits{}); err != nil || !v.Canonical() {
			t.Fatalf("written as %q: not canonical (%v)", again, err)
		}
	})
}

// normal leaves out what is read but never written: an address of the other version under "ipv4" or "ipv6".
func normal(e ltep.Exchange) ltep.Exchange {
	if !e.IPv4.Is4() {
		e.IPv4 = netip.Addr{}
	}
	if !e.IPv6.Is6() {
		e.IPv6 = netip.Addr{}
	}
	if len(e.M) == 0 {
		e.M = nil
	}
	return e
}

func FuzzParseMetadata(f *testing.F) {
	for _, v := range wiretest.Load(f, vectorsDir) {
		f.Add(v.Bytes)
	}
	c := codec()
	f.Fuzz(func(t *testing.T, payload []byte) {
		if m, err := ltep.ParseMetadata(payload); err == nil && len(m.Data) > ltep.MetadataPieceBytes {
			t.Fatalf("%d bytes of data", len(m.Data))
		}
		c.Stable(t, append([]byte{classic.IDExtended, metadataID}, payload...))
	})
}

func BenchmarkParseExchange(b *testing.B) {
	e := ltep.Exchange{M: []ltep.Entry{{Name: "ut_metadata", ID: 1}, {Name: "ut_pex", ID: 2}, {Name: "chat", ID: 3}}, Client: "client 1.0", Port: 6881, ReqQ: 500,
		MetadataSize: 12345, YourIP: netip.MustParseAddr("192.0.2.1")}
	payload := ltep.AppendExchange(nil, &e)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ltep.ParseExchange(payload); err != nil {
			b.Fatal(err)
		}
	}
}
