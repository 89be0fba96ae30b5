// Package keyfile reads and writes the two kinds of secrets that people keep in files: identities and swarm keys. It decides their format, who
// else may be able to read them, and that none is replaced by accident. It does not decide what the keys are for.
//
// # Identity
//
// An Ed25519 private key as PKCS #8 in PEM (RFC 8410, RFC 7468), as "openssl genpkey -algorithm ed25519" writes it, below lines of comment:
//
//	# Identity of parley, …
//	-----BEGIN PRIVATE KEY-----
//	MC4CAQAwBQYDK2VwBCIEI…
//	-----END PRIVATE KEY-----
//
// # Swarm key
//
// One line: "parley-swarm-key-1", a space, and 32 bytes as 64 hexadecimal digits.
//
// # Who may read them
//
// Files are made for their owner alone (mode 0600). A file that its group or others may read or write is refused, since somebody else may have the key already;
// of a symbolic link the target counts. On Windows, whose files have no such mode, this is neither set nor checked: the folder's permissions
// hold.
package keyfile

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

const (
	// MaxBytes is how long a key file can be.
	MaxBytes = 4096
	// SwarmKeyBytes is the length of a swarm key.
	SwarmKeyBytes = 32

	pemType     = "PRIVATE KEY"
	header      = "# Identity of parley, a private key: who has this file can pose as you.\n"
	swarmPrefix = "parley-swarm-key-1 "
)

// A FormatError says that a file does not hold a key of the kind wanted.
type FormatError struct {
	Path   string
	Reason string
}

// Error returns path and reason.
func (e *FormatError) Error() string { return e.Path + ": " + e.Reason }

// A ModeError says that others than its owner can read or write a file.
type ModeError struct {
	Path string
	Mode fs.FileMode // its permissions
}

// Error returns the path, the mode and what to do.
func (e *ModeError) Error() string {
	return fmt.Sprintf("%s: others can read or write it (mode %04o): run chmod 600 %[1]s, or make a new key if somebody may have read it", e.Path, e.Mode)
}

// CreateIdentity makes a new identity and writes it to a new file at path; the error is [fs.ErrExist] if there is something already. With force an
// existing file is replaced, or the symbolic link if it is one. Other errors are those of the file system, with path.
func CreateIdentity(path string, force bool) (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	text := append([]byte(header), pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})...)
	return key, create(path, text, force)
}

// LoadIdentity reads an identity. The error is a [*FormatError], a [*ModeError], or one of the file system.
func LoadIdentity(path string) (ed25519.PrivateKey, error) {
	b, err := load(path)
	if err != nil {
		return nil, err
	}
	key, why := parseIdentity(b)
	if why != "" {
		return nil, &FormatError{path, why}
	}
	return key, nil
}

// parseIdentity returns why b is no identity, "" if it is one.
func parseIdentity(b []byte) (key ed25519.PrivateKey, why string) {
	comments, _, isPEM := bytes.Cut(b, []byte("-----BEGIN "))
	for line := range bytes.Lines(comments) {
		switch line = bytes.TrimSpace(line); {
		case bytes.HasPrefix(line, []byte(strings.TrimSpace(swarmPrefix))):
			return nil, "it is a swarm key, not an identity"
		case len(line) > 0 && line[0] != '#' && isPEM:
			return nil, "there is something other than comment before the private key"
		}
	}
	block, rest := pem.Decode(b)
	switch {
	case block == nil && !isPEM:
		return nil, "it is no identity: it has no private key in PEM (-----BEGIN PRIVATE KEY-----)"
	case block == nil:
		return nil, "its PEM is damaged"
	case block.Type == "OPENSSH PRIVATE KEY":
		return nil, "it is a key of OpenSSH in its own format; make an identity with parley identity new"
	case block.Type == "ENCRYPTED PRIVATE KEY", len(block.Headers) > 0:
		return nil, "its key is encrypted or has headers; a key without a passphrase is wanted"
	case block.Type != pemType:
		return nil, fmt.Sprintf("it holds a %q, want a %q", block.Type, pemType)
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, "there is something behind the private key"
	}
	var whole asn1.RawValue
	if rest, err := asn1.Unmarshal(block.Bytes, &whole); err == nil && len(rest) > 0 {
		return nil, "there is something behind the private key, in its PEM"
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, "its private key is damaged: " + strings.TrimPrefix(err.Error(), "x509: ")
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Sprintf("its key is of another kind (%s), want Ed25519", strings.TrimPrefix(fmt.Sprintf("%T", parsed), "*"))
	}
	return key, ""
}

// CreateSwarmKey makes a new swarm key and writes it to a new file, as [CreateIdentity] does.
func CreateSwarmKey(path string, force bool) (key [SwarmKeyBytes]byte, err error) {
	rand.Read(key[:]) // never fails
	return key, create(path, fmt.Appendf(nil, "%s%x\n", swarmPrefix, key), force)
}

// LoadSwarmKey reads a swarm key. The error is a [*FormatError], a [*ModeError], or one of the file system.
func LoadSwarmKey(path string) (key [SwarmKeyBytes]byte, err error) {
	b, err := load(path)
	if err != nil {
		return key, err
	}
	key, why := parseSwarmKey(string(b))
	if why != "" {
		return key, &FormatError{path, why}
	}
	return key, nil
}

// parseSwarmKey returns why s is no swarm key, "" if it is one.
func parseSwarmKey(s string) (key [SwarmKeyBytes]byte, why string) {
	digits, ok := strings.CutPrefix(s, swarmPrefix)
	switch {
	case ok:
	case strings.Contains(s, "-----BEGIN "):
		return key, "it is an identity or another key in PEM, not a swarm key"
	case strings.HasPrefix(s, "parley-swarm-key-"):
		return key, fmt.Sprintf("it is a swarm key of another version, want %q", strings.TrimSpace(swarmPrefix))
	default:
		return key, fmt.Sprintf("it is no swarm key: it does not begin with %q", strings.TrimSpace(swarmPrefix))
	}
	digits, behind, _ := strings.Cut(digits, "\n")
	if strings.TrimSpace(behind) != "" {
		return key, "there is something behind the swarm key"
	}
	digits = strings.TrimSuffix(digits, "\r") // an editor of Windows
	if len(digits) != hex.EncodedLen(len(key)) {
		return key, fmt.Sprintf("its key has %d digits, want %d", len(digits), hex.EncodedLen(len(key)))
	}
	if _, err := hex.Decode(key[:], []byte(digits)); err != nil {
		return [SwarmKeyBytes]byte{}, "its key is not all hexadecimal digits"
	}
	return key, ""
}

// load reads a key file after it has looked who else can.
func load(path string) ([]byte, error) {
	if fi, err := os.Stat(path); err != nil {
		return nil, err
	} else if err := checkRegular(path, fi); err != nil { // before it is opened: a pipe would have us wait
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := checkRegular(path, fi); err != nil { // it may be another by now
		return nil, err
	}
	if mode := fi.Mode().Perm(); runtime.GOOS != "windows" && mode&0o066 != 0 {
		return nil, &ModeError{path, mode}
	}
	b, err := io.ReadAll(io.LimitReader(f, MaxBytes+1))
	if err != nil {
		return nil, err
	}
	if len(b) > MaxBytes {
		return nil, &FormatError{path, fmt.Sprintf("it is longer than a key file can be (%d bytes)", MaxBytes)}
	}
	return b, nil
}

func checkRegular(path string, fi fs.FileInfo) error {
	switch {
	case fi.IsDir():
		return &FormatError{path, "it is a folder, not a key file"}
	case !fi.Mode().IsRegular():
		return &FormatError{path, "it is a pipe or device, not a key file"}
	}
	return nil
}

// create writes a file as a whole, or not at all, that its owner alone may read.
func create(path string, content []byte, force bool) (err error) {
	if _, err := os.Lstat(path); err == nil && !force {
		return &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	}
	var suffix [6]byte
	rand.Read(suffix[:]) // never fails
	tmp := filepath.Join(filepath.Dir(path), "."+hex.EncodeToString(suffix[:])+".tmp")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return named(path, err)
	}
	renamed := false
	defer func() {
		if !renamed { // after a link this is the other name
			err = errors.Join(err, os.Remove(tmp))
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return named(path, err)
	}
	if !force {
		err := os.Link(tmp, path) // unlike a rename it replaces nothing
		if err == nil || errors.Is(err, fs.ErrExist) {
			return named(path, err)
		}
		// A file system without hard links: look, then rename.
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
		}
	}
	if err := os.Rename(tmp, path); err != nil {
		return named(path, err)
	}
	renamed = true
	return nil
}

// named returns err as one of path: the temporary name in it means nothing to people.
func named(path string, err error) error {
	if err == nil {
		return nil
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	} else if le, ok := errors.AsType[*os.LinkError](err); ok {
		err = le.Err
	}
	return &fs.PathError{Op: "create", Path: path, Err: err}
}
