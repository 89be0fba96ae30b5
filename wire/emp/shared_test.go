package emp_test

import (
	"bytes"
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/emp"
	"github.com/parley-bt/parley/wire/ltep"
)

func TestSharedUvarints(t *testing.T) {
	vectors := wiretest.LoadShared(t, "uvarint.json")
	for _, v := range vectors {
		type side struct {
			Value uint32
			Bytes *wiretest.Hex
			Error string
		}
		var in, out side
		v.Unpack(t, &in, &out)
		if out.Error != "" {
			if got, n := emp.Uvarint(*in.Bytes); n > 0 || out.Error != "ErrBadFrame" {
				t.Errorf("%s: %x is read as %d of %d bytes", v.Name, *in.Bytes, got, n)
			}
			continue
		}
		if got, n := emp.Uvarint(*out.Bytes); got != in.Value || n != len(*out.Bytes) {
			t.Errorf("%s: read as %d of %d bytes, want %d", v.Name, got, n, in.Value)
		}
		if got := emp.AppendUvarint(nil, in.Value); !bytes.Equal(got, *out.Bytes) {
			t.Errorf("%s: written as %x, want %x", v.Name, got, *out.Bytes)
		}
	}
	t.Logf("checked %d vectors of a second implementation", len(vectors))
}

// sharedFrame is a frame as mux.json has it.
type sharedFrame struct {
	Kind                     string
	First, Request, Response bool
	ID, Type, Total, Bytes   uint32
	Version                  uint8
	ReplyMax                 uint32 `json:"reply_max"`
	Status, Code             uint8
	Data                     wiretest.Hex
}

func (s sharedFrame) frame(t *testing.T) emp.Frame {
	t.Helper()
	kind := strings.ToUpper(s.Kind)
	for k := emp.Data; k <= emp.Stop; k++ {
		if k.String() == kind {
			return emp.Frame{Kind: k, First: s.First, Request: s.Request, Response: s.Response, ID: s.ID, Type: s.Type, Version: s.Version, Total: s.Total,
				ReplyMax: s.ReplyMax, Status: emp.Status(s.Status), Code: emp.Code(s.Code), Bytes: s.Bytes, Data: s.Data}
		}
	}
	t.Fatalf("unknown kind %q", s.Kind)
	return emp.Frame{}
}

func TestSharedFrames(t *testing.T) {
	vectors := wiretest.LoadShared(t, "mux.json")
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			switch {
			case v.Name == "in an extended frame":
				testSharedExtendedFrame(t, v)
				return
			case strings.HasPrefix(v.Name, "fragmentation of "):
				testSharedFragments(t, v)
				return
			}
			var in, out struct {
				sharedFrame
				Payload *wiretest.Hex
				Ignored bool
				Error   string
			}
			v.Unpack(t, &in, &out)
			payload, value := in.Payload, out
			if payload == nil {
				payload, value = out.Payload, in
			}
			var got emp.Frame
			err := got.Parse(*payload)
			switch {
			case out.Error != "":
				if wiretest.WantFailure(t, err, ""); out.Error != "ErrBadFrame" {
					t.Errorf("the error is %s", out.Error)
				}
				return
			case out.Ignored:
				if err != nil || got.Kind <= emp.Stop || !reflect.DeepEqual(got, emp.Frame{Kind: got.Kind}) {
					t.Errorf("read as %+v, %v", got, err)
				}
				return
			}
			want := value.frame(t)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("read as %+v, %v; want %+v", got, err, want)
			}
			if out.Payload != nil {
				if wrote := appendFrame(nil, want); !bytes.Equal(wrote, *out.Payload) {
					t.Errorf("written as %x, want %x", wrote, *out.Payload)
				}
			}
		})
	}
	t.Logf("checked %d vectors of a second implementation", len(vectors))
}

func testSharedExtendedFrame(t *testing.T, v wiretest.SharedVector) {
	var in struct {
		Mux     uint8 `json:"emp_mux"`
		Payload wiretest.Hex
	}
	var out struct{ Frame wiretest.Hex }
	v.Unpack(t, &in, &out)
	if got := classic.AppendExtended(nil, wire.Extended{ID: in.Mux, Payload: in.Payload}); !bytes.Equal(got, out.Frame) {
		t.Errorf("written as %x, want %x", got, out.Frame)
	}
	var d classic.Decoder
	m, err := d.Decode(out.Frame[4:])
	e, ok := m.(*wire.Extended)
	if err != nil || !ok || e.ID != in.Mux || !bytes.Equal(e.Payload, in.Payload) {
		t.Fatalf("read as %+v, %v", m, err)
	}
	var f emp.Frame
	if err := f.Parse(e.Payload); err != nil || string(f.Data) != "hello" {
		t.Errorf("read as %+v, %v", f, err)
	}
}

// A message in fragments as large as they may be; the vector says that a sender may cut elsewhere.
func testSharedFragments(t *testing.T, v wiretest.SharedVector) {
	var in struct {
		ID      uint32
		Type    uint16
		Version uint8
		Message wiretest.Hex
	}
	var out struct{ Payloads []wiretest.Hex }
	v.Unpack(t, &in, &out)
	var joined []byte
	for i, payload := range out.Payloads {
		var f emp.Frame
		if err := f.Parse(payload); err != nil || f.ID != in.ID || f.First != (i == 0) ||
			f.First && (f.Total != uint32(len(in.Message)) || f.Type != uint32(in.Type) || f.Version != in.Version) {
			t.Fatalf("fragment %d: read as %+v, %v", i, f, err)
		}
		head := emp.AppendFragmentHead(nil, in.ID, false)
		if i == 0 {
			head = emp.AppendMessageHead(nil, in.ID, in.Type, in.Version, uint32(len(in.Message)))
		}
		part := in.Message[len(joined):min(len(joined)+wire.MaxFragment, len(in.Message))]
		if wrote := append(head, part...); !bytes.Equal(wrote, payload) {
			t.Errorf("fragment %d: written as %x…, want %x…", i, wrote[:min(len(wrote), 16)], payload[:min(len(payload), 16)])
		}
		joined = append(joined, f.Data...)
	}
	if !bytes.Equal(joined, in.Message) {
		t.Errorf("%d bytes came of %d, or others", len(joined), len(in.Message))
	}
}

// What frames in a row lead to is checked by package peer; here, that each one that is accepted there can be read.
func TestSharedScenarioFrames(t *testing.T) {
	frames := 0
	for _, v := range wiretest.LoadShared(t, "mux_scenarios.json") {
		var in struct{ Payloads []wiretest.Hex }
		var out struct {
			Accepted int
			Error    string
		}
		v.Unpack(t, &in, &out)
		for i, payload := range in.Payloads {
			var f emp.Frame
			if err := f.Parse(payload); err != nil && (i < out.Accepted || out.Error != "ErrBadFrame") {
				t.Errorf("%s: frame %d: %v", v.Name, i, err)
			}
			frames++
		}
	}
	if frames < 50 {
		t.Errorf("only %d frames found", frames)
	}
}

// sharedOffer is the "emp" of an exchange as the vectors that build one have it.
type sharedOffer struct {
	V, Max, Win, Req, Veil int64
	T                      map[string][4]uint32
	ID, RB                 wiretest.Hex
}

func (s sharedOffer) offer() emp.Offer {
	o := emp.Offer{Version: int(s.V), HasTypes: s.T != nil, Max: s.Max, Window: s.Win, Requests: s.Req, Veil: s.Veil == 1}
	for name, t := range s.T {
		o.Types = append(o.Types, emp.TypeOffer{Name: name, ID: uint16(t[0]), MinVersion: uint8(t[1]), MaxVersion: uint8(t[2]), MaxLen: t[3]})
	}
	if s.ID != nil {
		o.PeerID, o.HasPeerID = bt.PeerID(s.ID), true
	}
	if s.RB != nil {
		o.Reserved, o.HasReserved = wire.Reserved(s.RB), true
	}
	return o
}

func TestSharedExchanges(t *testing.T) {
	vectors := wiretest.LoadShared(t, "exchange.json")
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			switch {
			case strings.HasPrefix(v.Name, "build, "):
				testSharedBuild(t, v)
			case v.Name == "decode: 33 exchanges":
				// Exchanges are counted by package peer, which checks this one.
			default:
				testSharedDecode(t, v)
			}
		})
	}
	t.Logf("checked %d vectors of a second implementation", len(vectors))
}

func testSharedBuild(t *testing.T, v wiretest.SharedVector) {
	var in struct {
		M            map[string]uint8
		EMP          sharedOffer
		V            wiretest.Hex
		P            uint16
		ReqQ         int
		MetadataSize int64 `json:"metadata_size"`
		UploadOnly   int   `json:"upload_only"`
	}
	var out struct{ Payload, Frame wiretest.Hex }
	v.Unpack(t, &in, &out)
	o := in.EMP.offer()
	e := ltep.Exchange{Client: string(in.V), Port: in.P, ReqQ: in.ReqQ, MetadataSize: in.MetadataSize, UploadOnly: in.UploadOnly == 1, EMP: emp.AppendOffer(nil, &o)}
	for name, id := range in.M {
		e.M = append(e.M, ltep.Entry{Name: name, ID: id})
	}
	payload := ltep.AppendExchange(nil, &e)
	if !bytes.Equal(payload, out.Payload) {
		t.Errorf("written as %q, want %q", payload, out.Payload)
	}
	if frame := classic.AppendExtended(nil, wire.Extended{ID: ltep.ExchangeID, Payload: payload}); out.Frame != nil && !bytes.Equal(frame, out.Frame) {
		t.Errorf("framed as %x, want %x", frame, out.Frame)
	}
	got, err := ltep.ParseExchange(out.Payload)
	if err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("read as %+v, %v; want %+v", got, err, e)
	}
	if offer, err := emp.ParseOffer(got.EMP); err != nil || !reflect.DeepEqual(offer, o) {
		t.Errorf("its emp is read as %+v, %v; want %+v", offer, err, o)
	}
}

// errExchange stands for ErrBadTypeExchange of package peer.
var errExchange = errors.New("bad exchange")

// receiver is what a session does with exchanges.
type receiver struct {
	veiled  bool
	applied []bool
	theyUse ltep.TheyUse
	they    emp.TheyOffer
}

func (r *receiver) receive(payload []byte) error {
	e, err := ltep.ParseExchange(payload)
	r.applied = append(r.applied, err == nil)
	if err != nil {
		if r.veiled {
			return errExchange
		}
		return nil
	}
	r.theyUse.Apply(e.M)
	var o emp.Offer
	if e.EMP != nil {
		if o, err = emp.ParseOffer(e.EMP); err != nil {
			return err
		}
	}
	if r.veiled && o.CheckVeiled() != nil {
		return errExchange
	}
	if e.EMP == nil {
		return nil
	}
	mux := uint8(0)
	for _, entry := range e.M {
		if entry.Name == ltep.NameMux {
			mux = entry.ID
		}
	}
	_, err = r.they.Apply(&o, mux)
	return err
}

func testSharedDecode(t *testing.T, v wiretest.SharedVector) {
	var in struct {
		Exchanges []wiretest.Hex
		AfterVeil bool `json:"after_veil"`
	}
	var out struct {
		Applied  []bool
		M        map[string]uint8
		HasEMP   bool `json:"has_emp"`
		Mux      uint8
		V        int
		Max, Win uint32
		Req      int
		Veil     int
		T        map[string][4]uint32
		Error    string
	}
	v.Unpack(t, &in, &out)
	r := receiver{veiled: in.AfterVeil}
	var err error
	for _, payload := range in.Exchanges {
		if err = r.receive(payload); err != nil {
			break
		}
	}
	want, known := map[string]error{"": nil, "ErrBadTypeExchange": errExchange, "ErrWindowExceeded": emp.ErrWindow}[out.Error]
	if !known || !errors.Is(err, want) {
		t.Fatalf("error %v, want %q", err, out.Error)
	}
	if out.Error != "" {
		return
	}
	checkTable(t, &r.they)
	if !reflect.DeepEqual(r.applied, out.Applied) {
		t.Errorf("applied %v, want %v", r.applied, out.Applied)
	}
	if got := r.theyUse.Snapshot(); !maps.Equal(got, out.M) {
		t.Errorf("m %v, want %v", got, out.M)
	}
	they := &r.they
	if they.Active() != out.HasEMP || they.Mux() != out.Mux || they.Version() != out.V || they.Max() != out.Max || they.Window() != out.Win ||
		they.Requests() != out.Req || they.Veil() != (out.Veil == 1) {
		t.Errorf("active %v, mux %d, v %d, max %d, win %d, req %d, veil %v; want %s", they.Active(), they.Mux(), they.Version(), they.Max(), they.Window(),
			they.Requests(), they.Veil(), v.Out)
	}
	// The vectors have maxlen as it stands in "t", cut to 16 MiB; resolved it is what section 6.2 makes of it.
	wantTypes := make(map[string][4]uint32)
	for name, typ := range out.T {
		if typ[3] == 0 {
			typ[3] = out.Max
		}
		typ[3] = min(typ[3], out.Win-64)
		wantTypes[name] = typ
	}
	got := make(map[string][4]uint32)
	for o := range they.All() {
		got[o.Name] = [4]uint32{uint32(o.ID), uint32(o.MinVersion), uint32(o.MaxVersion), o.MaxLen}
	}
	if !maps.Equal(got, wantTypes) {
		t.Errorf("types %v, want %v", got, wantTypes)
	}
}
