package wiretest

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// SharedVector is one vector of a second implementation of EMP/1. In and Out are in the form of their file.
type SharedVector struct {
	Name    string          `json:"name"`
	Section string          `json:"section"`
	In      json.RawMessage `json:"in"`
	Out     json.RawMessage `json:"out"`
}

// Hex is bytes that stand in JSON as hexadecimal digits.
type Hex []byte

// UnmarshalText implements [encoding.TextUnmarshaler].
func (h *Hex) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// LoadShared reads a file of the vectors that a second implementation of EMP/1 made. They are no part of this module: they are looked for in the
// directory that PARLEY_SHARED names, or else in one called shared beside the module's. The test is skipped if it is not there.
func LoadShared(t *testing.T, name string) []SharedVector {
	t.Helper()
	dir, given := os.LookupEnv("PARLEY_SHARED")
	if !given {
		root, err := moduleRoot()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(root, "..", "shared")
	}
	b, err := os.ReadFile(filepath.Join(dir, "vectors", name))
	if os.IsNotExist(err) && !given {
		t.Skipf("NOT CHECKED against a second implementation: its vectors/%s is not beside this module; PARLEY_SHARED names the directory", name)
	}
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Format  int            `json:"format"`
		Vectors []SharedVector `json:"vectors"`
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if file.Format != 1 || len(file.Vectors) == 0 {
		t.Fatalf("%s: format %d with %d vectors, want format 1 and some", name, file.Format, len(file.Vectors))
	}
	return file.Vectors
}

// Unpack reads In and Out of v.
func (v SharedVector) Unpack(t testing.TB, in, out any) {
	t.Helper()
	if err := json.Unmarshal(v.In, in); err != nil {
		t.Fatalf("in: %v", err)
	}
	if err := json.Unmarshal(v.Out, out); err != nil {
		t.Fatalf("out: %v", err)
	}
}

// moduleRoot finds the directory of go.mod above the one tests run in.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", os.ErrNotExist
		}
		dir = up
	}
}
