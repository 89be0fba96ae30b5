package main

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// content is a file of random bytes and its .torrent, made without the software under test.
type content struct {
	dir      string // the file lies in here
	name     string
	torrent  string // path of the .torrent
	infoHash string // hexadecimal
	bytes    int64
}

// makeContent writes a file of total bytes, the same in every run, unless it is there already, and its .torrent.
func makeContent(ctx context.Context, tmp string, total, pieceBytes int64) (content, error) {
	c := content{dir: filepath.Join(tmp, "seed"), name: fmt.Sprintf("random-%dK.bin", total>>10), bytes: total}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return content{}, err
	}
	path := filepath.Join(c.dir, c.name)
	if _, err := os.Stat(path); err != nil {
		rng := rand.NewChaCha8([32]byte{1})
		f, err := os.Create(path)
		if err != nil {
			return content{}, err
		}
		if _, err = io.CopyN(f, rng, total); err != nil {
			return content{}, errors.Join(err, f.Close())
		}
		if err := f.Close(); err != nil {
			return content{}, err
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return content{}, err
	}
	defer f.Close()
	var pieces bytes.Buffer
	piece := make([]byte, pieceBytes)
	for at := int64(0); at < total; at += pieceBytes {
		if ctx.Err() != nil {
			return content{}, ctx.Err()
		}
		n, err := io.ReadFull(f, piece[:min(pieceBytes, total-at)])
		if err != nil {
			return content{}, err
		}
		sum := sha1.Sum(piece[:n])
		pieces.Write(sum[:])
	}
	info := fmt.Sprintf("d6:lengthi%de4:name%d:%s12:piece lengthi%de6:pieces%d:%se",
		total, len(c.name), c.name, pieceBytes, pieces.Len(), pieces.Bytes())
	sum := sha1.Sum([]byte(info))
	c.infoHash = hex.EncodeToString(sum[:])
	c.torrent = filepath.Join(tmp, fmt.Sprintf("%s-%d.torrent", c.name, pieceBytes))
	return c, os.WriteFile(c.torrent, []byte("d4:info"+info+"e"), 0o644)
}

// freshDir returns an empty folder of that name, whatever was there before.
func freshDir(tmp, name string) (string, error) {
	dir := filepath.Join(tmp, name)
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	return dir, os.Mkdir(dir, 0o755)
}

// sameContent compares two files byte by byte.
func sameContent(a, b string) error {
	fa, err := os.Open(a)
	if err != nil {
		return err
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return err
	}
	defer fb.Close()
	ba, bb := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := 0; ; {
		na, errA := io.ReadFull(fa, ba)
		nb, errB := io.ReadFull(fb, bb)
		if !bytes.Equal(ba[:na], bb[:nb]) {
			return fmt.Errorf("the copy differs in the MiB at offset %d", at)
		}
		if errA != nil || errB != nil {
			for _, err := range []error{errA, errB} {
				if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
					return err
				}
			}
			return nil
		}
		at += na
	}
}

// pretouch writes and removes a file of n bytes, so that the memory the next copy will lie in has been handed to this machine already: in a virtual machine
// the first touch of a page can cost several times the write itself.
func pretouch(ctx context.Context, tmp string, n int64) (err error) {
	path := filepath.Join(tmp, "touch")
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(path)) }()
	zero := make([]byte, 1<<20)
	for range n >> 20 {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if _, err := f.Write(zero); err != nil {
			return err
		}
	}
	return nil
}
