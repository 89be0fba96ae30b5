package repeat

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
)

func TestBoth(t *testing.T) {
	head, answer := make([]byte, 5000), []byte("answer")
	err := Both(func(nc net.Conn) error {
		if _, err := nc.Write(head); err != nil { // nobody reads it yet
			return err
		}
		got := make([]byte, len(answer))
		if _, err := io.ReadFull(nc, got); err != nil || !bytes.Equal(got, answer) {
			t.Errorf("%q, %v", got, err)
		}
		return nil
	}, func(nc net.Conn) error {
		if _, err := nc.Write(answer); err != nil {
			return err
		}
		_, err := io.ReadFull(nc, head)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	wait := func(nc net.Conn) error {
		_, err := nc.Read(head)
		return err
	}
	fail := func(net.Conn) error { return broken }
	if err := Both(wait, fail); err != broken {
		t.Error(err)
	}
	if err := Both(fail, wait); err == nil {
		t.Error("no error")
	}
}
