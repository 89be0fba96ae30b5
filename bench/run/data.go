package main

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
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
	pieces, err := hashPieces(ctx, f, total, pieceBytes)
	if err != nil {
		return content{}, err
	}
	c.torrent = filepath.Join(tmp, fmt.Sprintf("%s-%d.torrent", c.name, pieceBytes))
	return c, c.writeTorrent(fmt.Sprintf("6:lengthi%de", total), pieceBytes, pieces)
}

// hashPieces returns the SHA-1 of each piece of what r has.
func hashPieces(ctx context.Context, r io.Reader, total, pieceBytes int64) ([]byte, error) {
	var pieces []byte
	piece := make([]byte, pieceBytes)
	for at := int64(0); at < total; at += pieceBytes {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		n, err := io.ReadFull(r, piece[:min(pieceBytes, total-at)])
		if err != nil {
			return nil, err
		}
		sum := sha1.Sum(piece[:n])
		pieces = append(pieces, sum[:]...)
	}
	return pieces, nil
}

// writeTorrent writes the .torrent of c; files is the entry "length" or "files" of its info dictionary.
func (c *content) writeTorrent(files string, pieceBytes int64, pieces []byte) error {
	info := fmt.Sprintf("d%s4:name%d:%s12:piece lengthi%de6:pieces%d:%se", files, len(c.name), c.name, pieceBytes, len(pieces), pieces)
	sum := sha1.Sum([]byte(info))
	c.infoHash = hex.EncodeToString(sum[:])
	return os.WriteFile(c.torrent, []byte("d4:info"+info+"e"), 0o644)
}

// makeFolder writes a folder of n files of random bytes, in sub-folders of a hundred, and its .torrent.
func makeFolder(ctx context.Context, tmp string, n int, each, pieceBytes int64) (content, error) {
	c := content{dir: filepath.Join(tmp, "seed"), name: fmt.Sprintf("folder-%d", n), bytes: int64(n) * each}
	rng := rand.NewChaCha8([32]byte{2})
	all := make([]byte, c.bytes)
	rng.Read(all) // never fails
	var list strings.Builder
	for i := range n {
		if ctx.Err() != nil {
			return content{}, ctx.Err()
		}
		sub, name := fmt.Sprintf("%03d", i/100), fmt.Sprintf("%05d.bin", i)
		dir := filepath.Join(c.dir, c.name, sub)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return content{}, err
		}
		if err := os.WriteFile(filepath.Join(dir, name), all[int64(i)*each:int64(i+1)*each], 0o644); err != nil {
			return content{}, err
		}
		fmt.Fprintf(&list, "d6:lengthi%de4:pathl%d:%s%d:%see", each, len(sub), sub, len(name), name)
	}
	pieces, err := hashPieces(ctx, bytes.NewReader(all), c.bytes, pieceBytes)
	if err != nil {
		return content{}, err
	}
	c.torrent = filepath.Join(tmp, c.name+".torrent")
	return c, c.writeTorrent("5:filesl"+list.String()+"e", pieceBytes, pieces)
}

// makeMany writes n torrents of one file each, with their .torrent files beside them, into a folder of their own.
func makeMany(ctx context.Context, tmp string, n int, each, pieceBytes int64) (dir string, err error) {
	dir = filepath.Join(tmp, fmt.Sprintf("many-%d", n))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	rng := rand.NewChaCha8([32]byte{3})
	body := make([]byte, each)
	for i := range n {
		c := content{dir: dir, name: fmt.Sprintf("%05d.bin", i), torrent: filepath.Join(dir, fmt.Sprintf("%05d.torrent", i))}
		rng.Read(body) // never fails
		if err := os.WriteFile(filepath.Join(dir, c.name), body, 0o644); err != nil {
			return "", err
		}
		pieces, err := hashPieces(ctx, bytes.NewReader(body), each, pieceBytes)
		if err != nil {
			return "", err
		}
		if err := c.writeTorrent(fmt.Sprintf("6:lengthi%de", each), pieceBytes, pieces); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// freshDir returns an empty folder of that name, whatever was there before.
func freshDir(tmp, name string) (string, error) {
	dir := filepath.Join(tmp, name)
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	return dir, os.Mkdir(dir, 0o755)
}

// sameTree compares a file, or a folder and every file in it, with its copy.
func sameTree(a, b string) error {
	return filepath.WalkDir(a, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(a, path)
		if err != nil {
			return err
		}
		return sameContent(path, filepath.Join(b, rel))
	})
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
