package parley

import (
	"context"
	"encoding/json"
	"fmt"
)

// A Codec writes values as the payloads of messages and reads them again. Packages codec/cbor and codec/bencode have others than [JSON]. It is safe for concurrent use.
type Codec interface {
	// Marshal returns v as bytes, which are the caller's.
	Marshal(v any) ([]byte, error)
	// Unmarshal reads b, all of it, into what v points to. It must keep nothing of b.
	Unmarshal(b []byte, v any) error
}

// JSON is the codec of encoding/json.
var JSON Codec = jsonCodec{}

type jsonCodec struct{}

func (jsonCodec) Marshal(v any) ([]byte, error)   { return json.Marshal(v) }
func (jsonCodec) Unmarshal(b []byte, v any) error { return json.Unmarshal(b, v) }

// Handle registers a type whose requests are values of Req and whose answers are values of Resp, in mt.Codec. m says who asks, and in which version; its Payload is the request as it came. A request
// that cannot be read is answered with [ErrHandlerFailed]. mt.Requests must be nil; Handler and Stream, if set, receive messages of the type as ever.
func Handle[Req, Resp any](t *Torrent, mt MessageType, h func(ctx context.Context, m *Message, req Req) (Resp, error)) (*Type, error) {
	if mt.Requests != nil {
		return nil, fmt.Errorf("message type %q: Requests is set, and Handle sets it", mt.Name)
	}
	codec := codecOf(mt)
	mt.Requests = func(ctx context.Context, m *Message) ([]byte, error) {
		var req Req
		if err := codec.Unmarshal(m.Payload, &req); err != nil {
			return nil, fmt.Errorf("the request cannot be read: %w", err)
		}
		resp, err := h(ctx, m, req)
		if err != nil {
			return nil, err
		}
		return codec.Marshal(resp)
	}
	return t.Register(mt)
}

// HandleMessages registers a type whose messages are values of T, in mt.Codec. A message that cannot be read counts as a handler's error. mt.Handler and mt.Stream must be nil.
func HandleMessages[T any](t *Torrent, mt MessageType, h func(ctx context.Context, m *Message, v T) error) (*Type, error) {
	if mt.Handler != nil || mt.Stream != nil {
		return nil, fmt.Errorf("message type %q: a handler is set, and HandleMessages sets it", mt.Name)
	}
	codec := codecOf(mt)
	mt.Handler = func(ctx context.Context, m *Message) error {
		var v T
		if err := codec.Unmarshal(m.Payload, &v); err != nil {
			return fmt.Errorf("the message cannot be read: %w", err)
		}
		return h(ctx, m, v)
	}
	return t.Register(mt)
}

func codecOf(mt MessageType) Codec {
	if mt.Codec != nil {
		return mt.Codec
	}
	return JSON
}

// Call sends req to a peer and returns its answer, both in the type's codec. The errors are those of [Type.Request], and the codec's. Answers may be as long as 1 MiB; use [Type.RequestMessage]
// for longer ones.
func Call[Req, Resp any](ctx context.Context, ty *Type, p Peer, req Req) (Resp, error) {
	var resp Resp
	payload, err := ty.codec.Marshal(req)
	if err != nil {
		return resp, fmt.Errorf("message type %q: %w", ty.Name(), err)
	}
	answer, err := ty.Request(ctx, p, payload, 1<<20)
	if err != nil {
		return resp, err
	}
	if err := ty.codec.Unmarshal(answer, &resp); err != nil {
		return resp, fmt.Errorf("peer %v: message type %q: the answer cannot be read: %w", p, ty.Name(), err)
	}
	return resp, nil
}

// SendValue sends v to a peer in the type's codec. The errors are those of [Type.Send], and the codec's.
func SendValue[T any](ctx context.Context, ty *Type, p Peer, v T) error {
	payload, err := ty.codec.Marshal(v)
	if err != nil {
		return fmt.Errorf("message type %q: %w", ty.Name(), err)
	}
	return ty.Send(ctx, p, payload)
}

// BroadcastValue sends v to every peer that shares the type, in the type's codec; see [Type.Broadcast].
func BroadcastValue[T any](ctx context.Context, ty *Type, v T) (int, error) {
	payload, err := ty.codec.Marshal(v)
	if err != nil {
		return 0, fmt.Errorf("message type %q: %w", ty.Name(), err)
	}
	return ty.Broadcast(ctx, payload)
}
