package keyfile

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// what "openssl genpkey -algorithm ed25519" writes: the key of RFC 8410 section 10.3
const (
	opensslKey = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n"
	opensslPub = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1"
)

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func public(key ed25519.PrivateKey) string {
	return hex.EncodeToString(key.Public().(ed25519.PublicKey))
}

func TestIdentity(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "id")
	key, err := CreateIdentity(path, false)
	if err != nil {
		t.Fatal(err)
	}
	got, err := LoadIdentity(path)
	if err != nil || !got.Equal(key) {
		t.Errorf("another key; %v", err)
	}
	checkMode(t, path)
	if _, err := CreateIdentity(path, false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over an existing file: %v", err)
	}
	if got, err = LoadIdentity(path); err != nil || !got.Equal(key) {
		t.Errorf("it was replaced; %v", err)
	}
	// A file that was readable by all is not afterwards.
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	next, err := CreateIdentity(path, true)
	if err != nil || next.Equal(key) {
		t.Errorf("with force: %v", err)
	}
	checkMode(t, path)
	if got, err = LoadIdentity(path); err != nil || !got.Equal(next) {
		t.Errorf("it was not replaced; %v", err)
	}
	onlyFile(t, dir)
}

func checkMode(t *testing.T, path string) {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" && fi.Mode() != 0o600 {
		t.Errorf("mode %v", fi.Mode())
	}
}

// onlyFile checks that nothing of ours but the file is left.
func onlyFile(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
}

func TestSwarmKey(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "swarm")
	key, err := CreateSwarmKey(path, false)
	if err != nil || key == [SwarmKeyBytes]byte{} {
		t.Fatal(key, err)
	}
	if got, err := LoadSwarmKey(path); err != nil || got != key {
		t.Errorf("another key; %v", err)
	}
	checkMode(t, path)
	if _, err := CreateSwarmKey(path, false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over an existing file: %v", err)
	}
	if next, err := CreateSwarmKey(path, true); err != nil || next == key {
		t.Errorf("with force: %v", err)
	}
	onlyFile(t, dir)
}

// Errors name the file that was to be written, not the one on the way.
func TestCreateFails(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{filepath.Join(dir, "none", "key"), dir} {
		_, err := CreateIdentity(path, true)
		if pe, ok := errors.AsType[*fs.PathError](err); !ok || pe.Path != path || strings.Contains(err.Error(), ".tmp") {
			t.Errorf("%v", err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// Keys of other programs can be used, whatever comment stands above them.
func TestForeignIdentity(t *testing.T) {
	for _, s := range []string{opensslKey, header + opensslKey, "# a\n\n#b\n" + opensslKey + "\n\n", strings.ReplaceAll(opensslKey, "\n", "\r\n"), strings.TrimSpace(opensslKey)} {
		key, err := LoadIdentity(write(t, s))
		if err != nil || public(key) != opensslPub {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// block is a key in PEM.
func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func TestBadIdentity(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecDER, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := pem.Decode([]byte(opensslKey))
	for _, tt := range []struct{ name, content, want string }{
		{"empty", "", "no private key in PEM"},
		{"text", "hello\n", "no private key in PEM"},
		{"too long", opensslKey + strings.Repeat("\n", MaxBytes), "longer than a key file can be (4096 bytes)"},
		{"a swarm key", swarmPrefix + strings.Repeat("0", 64) + "\n", "it is a swarm key"},
		{"cut off", opensslKey[:60], "damaged"},
		{"no base64", strings.Replace(opensslKey, "MC4C", "M*4C", 1), "damaged"},
		{"text before", "hello\n" + opensslKey, "before the private key"},
		{"text behind", opensslKey + "hello", "behind the private key"},
		{"two", opensslKey + opensslKey, "behind the private key"},
		{"more in its DER", block(pemType, append(p.Bytes[:len(p.Bytes):len(p.Bytes)], 0)), "behind the private key, in its PEM"},
		{"a certificate", block("CERTIFICATE", p.Bytes), `holds a "CERTIFICATE", want a "PRIVATE KEY"`},
		{"a public key", block("PUBLIC KEY", p.Bytes), `holds a "PUBLIC KEY"`},
		{"encrypted", block("ENCRYPTED PRIVATE KEY", p.Bytes), "encrypted"},
		{"with headers", string(pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: p.Bytes, Headers: map[string]string{"DEK-Info": "x"}})), "encrypted"},
		{"of OpenSSH", block("OPENSSH PRIVATE KEY", p.Bytes), "OpenSSH"},
		{"damaged", block(pemType, p.Bytes[:20]), "is damaged"},
		{"another kind", block(pemType, ecDER), "another kind (ecdsa.PrivateKey), want Ed25519"},
	} {
		path := write(t, tt.content)
		_, err := LoadIdentity(path)
		if fe, ok := errors.AsType[*FormatError](err); !ok || fe.Path != path || !strings.Contains(fe.Reason, tt.want) || !strings.HasPrefix(err.Error(), path+": ") {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestSwarmKeyText(t *testing.T) {
	digits := strings.Repeat("0123456789abcdeF", 4)
	for _, s := range []string{digits, digits + "\n", digits + "\r\n", digits + "\n\n"} {
		key, err := LoadSwarmKey(write(t, swarmPrefix+s))
		if err != nil || hex.EncodeToString(key[:]) != strings.ToLower(digits) {
			t.Errorf("%q: %x, %v", s, key, err)
		}
	}
	for _, tt := range []struct{ name, content, want string }{
		{"empty", "", "no swarm key"},
		{"no prefix", digits, "no swarm key"},
		{"another version", "parley-swarm-key-2 " + digits, "another version"},
		{"an identity", opensslKey, "an identity"},
		{"short", swarmPrefix + digits[1:], "63 digits, want 64"},
		{"long", swarmPrefix + digits + "0", "65 digits"},
		{"no digits", swarmPrefix + "x" + digits[1:], "hexadecimal"},
		{"space", swarmPrefix + digits + " ", "65 digits"},
		{"two", swarmPrefix + digits + "\n" + swarmPrefix + digits, "behind the swarm key"},
	} {
		key, err := LoadSwarmKey(write(t, tt.content))
		if _, ok := errors.AsType[*FormatError](err); !ok || !strings.Contains(err.Error(), tt.want) || key != [SwarmKeyBytes]byte{} {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestModes(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files have no such mode here")
	}
	path := write(t, opensslKey)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		mode fs.FileMode
		ok   bool
	}{{0o600, true}, {0o400, true}, {0o700, true}, {0o711, true}, {0o640, false}, {0o620, false}, {0o604, false}, {0o602, false}, {0o644, false}, {0o666, false}} {
		if err := os.Chmod(path, tt.mode); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{path, link} {
			_, err := LoadIdentity(p)
			me, refused := errors.AsType[*ModeError](err)
			if tt.ok && err != nil || !tt.ok && (!refused || me.Path != p || me.Mode != tt.mode || !strings.Contains(err.Error(), "chmod 600 "+p)) {
				t.Errorf("mode %v: %v", tt.mode, err)
			}
		}
	}
}

func TestNoFile(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadIdentity(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := LoadSwarmKey(dir); err == nil || !strings.Contains(err.Error(), "is a folder") {
		t.Error(err)
	}
	if runtime.GOOS == "windows" {
		return
	}
	if _, err := LoadSwarmKey(os.DevNull); err == nil || !strings.Contains(err.Error(), "pipe or device") {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(header + opensslKey))
	f.Add([]byte(swarmPrefix + strings.Repeat("0", 64) + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		key, why := parseIdentity(b)
		if (why == "") != (len(key) == ed25519.PrivateKeySize) {
			t.Errorf("%d bytes of key, %q", len(key), why)
		}
		if swarm, why := parseSwarmKey(string(b)); why != "" && swarm != [SwarmKeyBytes]byte{} {
			t.Errorf("%x, %q", swarm, why)
		}
	})
}
