package parley_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

const modulePath = "github.com/parley-bt/parley"

// layerTest marks packages that exist for tests: only _test.go files and each other may import them.
const layerTest = 100

// layerOf is the layer table: which layer each package of this module belongs to, by its path below the module ("." is
// the public API). A package imports only from lower layers; [mayImportSibling] lists the exceptions. An entry ending in
// "/..." covers the packages below it. Packages that do not exist yet are listed so that they fall into place.
var layerOf = map[string]int{
	"bt":                 0,
	"bencode":            0,
	"bitfield":           0,
	"internal/ratelimit": 0,
	"internal/blockbuf":  0,
	"internal/netpolicy": 0,
	"internal/merkle":    0,

	"metainfo":          1,
	"wire":              1,
	"wire/classic":      1,
	"wire/ltep":         1,
	"wire/azmp":         1,
	"wire/emp":          1,
	"tracker/proto":     1,
	"obfs":              1,
	"obfs/mse":          1,
	"obfs/veil":         1,
	"internal/resume":   1,
	"internal/clientid": 1,

	"peer":               2,
	"internal/picker":    2,
	"internal/choker":    2,
	"internal/pipeline":  2,
	"internal/pexset":    2,
	"internal/dialguard": 2,
	"internal/ladder":    2,

	"storage":            3,
	"probe":              3, // of sessions it has the hello and the exchange alone: package peer, and sockets
	"tracker":            3,
	"tracker/server":     3,
	"internal/peerconn":  3,
	"internal/gate":      3,
	"internal/discovery": 3,
	"internal/netdial":   3,
	"internal/webseed":   3,

	"internal/swarm":     4,
	"internal/messaging": 4,

	".": 5,

	"daemon":     6,
	"dht":        6,
	"daemon/...": 6,
	"codec/...":  6, // beside the public API, each with a library of its own: whoever embeds that API alone compiles neither

	"cmd/...":       7,
	"internal/demo": 7,

	"internal/attack":    layerTest,
	"internal/leaktest":  layerTest,
	"internal/mounttest": layerTest,
	"internal/rawpeer":   layerTest,
	"internal/sceptic":   layerTest,
	"internal/simnet":    layerTest,
	"internal/wiretest":  layerTest,
}

// mayImportSibling reports whether from may import to although both are in one layer: a dialect or an obfuscation
// imports its parent, a dialect may build on wire/classic, the daemon and each command import their own subpackages, and
// block buffers and the leaves of trees are as long as bt says a block is.
func mayImportSibling(from, to string) bool {
	switch {
	case strings.HasPrefix(from, "wire/"):
		return to == "wire" || to == "wire/classic"
	case strings.HasPrefix(from, "obfs/"):
		return to == "obfs"
	case to == "internal/netdial":
		return from == "tracker" || from == "internal/webseed" // who contacts what strangers name shares the checks
	case from == "internal/blockbuf", from == "internal/merkle":
		return to == "bt" // the size of a block is said in one place
	case strings.HasPrefix(from, "daemon"):
		return strings.HasPrefix(to, "daemon")
	case strings.HasPrefix(from, "cmd/"):
		return strings.HasPrefix(to, commandOf(from)+"/")
	}
	return false
}

// commandOf returns the command a package below cmd belongs to: "cmd/parley/internal/term" belongs to "cmd/parley".
func commandOf(pkg string) string {
	parts := strings.SplitN(pkg, "/", 3)
	return path.Join(parts[:min(2, len(parts))]...)
}

// impureInPureLayer are packages of layer 0 to 2 that may do more than compute: blockbuf pools memory between goroutines.
var impureInPureLayer = map[string]bool{"internal/blockbuf": true}

// Pure packages take values, the time and their randomness as arguments. These direct imports would give them a way to
// fetch those themselves. An entry ending in "/" covers what lies below; purePermitted makes exceptions.
var (
	pureForbidden = []string{"net", "net/", "os", "os/", "context", "crypto/rand", "sync", "sync/", "syscall", "math/rand", "log",
		"runtime", "io/ioutil", "embed", "unsafe"}
	purePermitted = []string{"net/netip", "net/url"}
	// The only packages from outside the standard library that embedding the protocol may cost.
	pureThirdParty = []string{"golang.org/x/crypto/", "github.com/flynn/noise"}
)

// pureForbiddenNames are the functions that a pure package must not mention, by import path. Of math/rand/v2 and
// log/slog a pure package may use only what carries no state of the process.
var (
	pureForbiddenNames = map[string][]string{
		"time": {"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "Local"},
		"log/slog": {"Logger", "Default", "SetDefault", "New", "With", "Handler", "Log", "LogAttrs", "Debug", "DebugContext", "Info",
			"InfoContext", "Warn", "WarnContext", "Error", "ErrorContext"},
		"fmt": {"Print", "Printf", "Println", "Scan", "Scanf", "Scanln"},
	}
	pureOnlyNames = map[string][]string{
		"math/rand/v2": {"Rand", "Source", "New", "PCG", "NewPCG", "ChaCha8", "NewChaCha8"},
	}
)

// A pkg is one package of this module as its non-test files show it, for every platform at once.
type pkg struct {
	path       string // below the module
	hasComment bool
	files      map[string]*ast.File
}

// loadPackages parses every package of the module that starts at fsys. Folders with their own go.mod belong to another
// module; testdata, hidden folders and those that begin with an underscore are not packages.
func loadPackages(fsys fs.FS, fset *token.FileSet) ([]*pkg, error) {
	found := map[string]*pkg{}
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			base := d.Name()
			if p != "." && (base == "testdata" || base == "node_modules" || base[0] == '.' || base[0] == '_') {
				return fs.SkipDir
			}
			if _, err := fs.Stat(fsys, path.Join(p, "go.mod")); err == nil && p != "." {
				return fs.SkipDir
			} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		src, err := fs.ReadFile(fsys, p)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(fset, p, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir := path.Dir(p)
		if found[dir] == nil {
			found[dir] = &pkg{path: dir, files: map[string]*ast.File{}}
		}
		found[dir].files[p] = f
		if f.Doc != nil && strings.TrimSpace(f.Doc.Text()) != "" && !ignoredForBuild(src) {
			found[dir].hasComment = true
		}
		return nil
	})
	return slices.SortedFunc(maps.Values(found), func(a, b *pkg) int { return strings.Compare(a.path, b.path) }), err
}

// ignoredForBuild reports whether a file is excluded from every build, as generators are.
func ignoredForBuild(src []byte) bool {
	for s := bufio.NewScanner(bytes.NewReader(src)); s.Scan(); {
		if strings.HasPrefix(s.Text(), "package ") {
			return false
		}
		if strings.TrimSpace(s.Text()) == "//go:build ignore" {
			return true
		}
	}
	return false
}

// lookupLayer returns a package's layer: its own entry, else that of the closest "/..." above it.
func lookupLayer(table map[string]int, p string) (int, bool) {
	if l, ok := table[p]; ok {
		return l, true
	}
	for d := path.Dir(p); d != "."; d = path.Dir(d) {
		if l, ok := table[d+"/..."]; ok {
			return l, true
		}
	}
	return 0, false
}

// matches reports whether an import path is in list, where an entry ending in "/" covers what lies below it.
func matches(list []string, imp string) bool {
	return slices.ContainsFunc(list, func(e string) bool {
		return imp == e || strings.HasSuffix(e, "/") && strings.HasPrefix(imp, e)
	})
}

// checkLayers returns every breach of the rules above, one line each, empty if there is none.
func checkLayers(fset *token.FileSet, pkgs []*pkg, table map[string]int) []string {
	var bad []string
	say := func(pos token.Pos, format string, args ...any) {
		bad = append(bad, fset.Position(pos).String()+": "+fmt.Sprintf(format, args...))
	}
	for _, p := range pkgs {
		layer, ok := lookupLayer(table, p.path)
		if !ok {
			bad = append(bad, fmt.Sprintf("%s: package is in no layer: add it to layerOf", p.path))
			continue
		}
		if !p.hasComment {
			bad = append(bad, fmt.Sprintf("%s: package has no package comment", p.path))
		}
		pure := layer <= 2 && !impureInPureLayer[p.path]
		for _, name := range slices.Sorted(maps.Keys(p.files)) {
			f := p.files[name]
			for _, spec := range f.Imports {
				imp, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					say(spec.Pos(), "import path %s: %v", spec.Path.Value, err)
					continue
				}
				if imp == "C" {
					say(spec.Pos(), "%s uses cgo; this module builds without", p.path)
				}
				if spec.Name != nil && spec.Name.Name == "." {
					say(spec.Pos(), "%s: dot import of %s hides what is used", p.path, imp)
				}
				if own, ok := ownPath(imp); ok {
					checkOwnImport(say, spec.Pos(), table, p.path, layer, own)
				} else if pure {
					checkPureImport(say, spec.Pos(), p.path, imp)
				}
			}
			if pure {
				checkPureNames(say, p.path, f)
			}
		}
	}
	return bad
}

// ownPath returns the path below the module of an import of this module.
func ownPath(imp string) (string, bool) {
	if imp == modulePath {
		return ".", true
	}
	return strings.CutPrefix(imp, modulePath+"/")
}

type sayFunc func(pos token.Pos, format string, args ...any)

func checkOwnImport(say sayFunc, pos token.Pos, table map[string]int, from string, layer int, to string) {
	toLayer, ok := lookupLayer(table, to)
	switch {
	case !ok:
		say(pos, "%s imports %s, which is in no layer", from, to)
	case toLayer == layerTest && layer != layerTest:
		say(pos, "%s imports %s, which exists for tests only", from, to)
	case layer == layerTest:
		if toLayer >= 5 && toLayer != layerTest {
			say(pos, "%s (for tests) imports %s (layer %d): a test helper stays below the public API", from, to, toLayer)
		}
	case layer >= 6 && from != "dht" && strings.HasPrefix(to, "internal/"): // dht is public API too, apart so that only its users compile it
		say(pos, "%s imports %s: commands and the daemon use only the public API", from, to)
	case toLayer > layer, toLayer == layer && !mayImportSibling(from, to):
		say(pos, "%s (layer %d) imports %s (layer %d)", from, layer, to, toLayer)
	}
}

func checkPureImport(say sayFunc, pos token.Pos, from, imp string) {
	if first, _, _ := strings.Cut(imp, "/"); strings.Contains(first, ".") {
		if !matches(pureThirdParty, imp) {
			say(pos, "%s is pure and imports %s from outside the standard library", from, imp)
		}
		return
	}
	if matches(pureForbidden, imp) && !matches(purePermitted, imp) {
		say(pos, "%s is pure and imports %s", from, imp)
	}
}

// checkPureNames reports uses of functions that reach for the clock, global randomness, the global logger or standard output.
func checkPureNames(say sayFunc, from string, f *ast.File) {
	local := map[string]string{} // the name in this file → import path
	for _, spec := range f.Imports {
		imp, err := strconv.Unquote(spec.Path.Value)
		if err != nil || pureForbiddenNames[imp] == nil && pureOnlyNames[imp] == nil {
			continue
		}
		name := path.Base(imp)
		if name == "v2" {
			name = path.Base(path.Dir(imp))
		}
		if spec.Name != nil {
			name = spec.Name.Name
		}
		local[name] = imp
	}
	ast.Inspect(f, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		x, ok := sel.X.(*ast.Ident)
		if !ok {
			return true
		}
		imp, ok := local[x.Name]
		if !ok {
			return true
		}
		if slices.Contains(pureForbiddenNames[imp], sel.Sel.Name) {
			say(sel.Pos(), "%s is pure and uses %s.%s", from, imp, sel.Sel.Name)
		}
		if only := pureOnlyNames[imp]; only != nil && !slices.Contains(only, sel.Sel.Name) {
			say(sel.Pos(), "%s is pure and uses %s.%s: randomness arrives as an argument", from, imp, sel.Sel.Name)
		}
		return true
	})
}

// TestLayers checks the packages of this module against the layer table.
func TestLayers(t *testing.T) {
	fset := token.NewFileSet()
	pkgs, err := loadPackages(os.DirFS("."), fset)
	if err != nil {
		t.Fatal(err)
	}
	// A walk that finds nothing must not pass.
	for _, want := range []string{".", "bt", "bitfield"} {
		if !slices.ContainsFunc(pkgs, func(p *pkg) bool { return p.path == want }) {
			t.Errorf("package %s was not found; the walk is broken", want)
		}
	}
	for _, line := range checkLayers(fset, pkgs, layerOf) {
		t.Error(line)
	}
}

// TestLayerRulesBite checks that each rule is really enforced: every case is a small module that breaks one rule, or that
// looks suspicious and is fine.
func TestLayerRulesBite(t *testing.T) {
	const doc = "// Package x is for this test.\n"
	tests := []struct {
		name string
		file string // path of the one file
		src  string
		want string // part of the only breach; empty: none
	}{
		{"fine", "bt/a.go", doc + `package bt; import "fmt"; var _ = fmt.Sprint`, ""},
		{"no package comment", "bt/a.go", "package bt", "no package comment"},
		{"comment only in an ignored file", "bt/gen.go", "//go:build ignore\n\n" + doc + "package main", "no package comment"},
		{"unknown package", "util/a.go", doc + "package util", "in no layer"},
		{"import of an unknown package", "peer/a.go", doc + `package peer; import _ "` + modulePath + `/util"`, "in no layer"},
		{"upwards", "wire/a.go", doc + `package wire; import _ "` + modulePath + `/peer"`, "layer 1) imports peer (layer 2)"},
		{"root from below", "internal/swarm/a.go", doc + `package swarm; import _ "` + modulePath + `"`, "imports . (layer 5)"},
		{"downwards", "internal/swarm/a.go", doc + `package swarm; import _ "` + modulePath + `/peer"`, ""},
		{"sibling", "internal/picker/a.go", doc + `package picker; import _ "` + modulePath + `/internal/choker"`, "(layer 2)"},
		{"sibling at layer 0", "bitfield/a.go", doc + `package bitfield; import _ "` + modulePath + `/bt"`, "(layer 0)"},
		{"block buffers on the size of a block", "internal/blockbuf/a.go", doc + `package blockbuf; import _ "` + modulePath + `/bt"`, ""},
		{"leaves on the size of a block", "internal/merkle/a.go", doc + `package merkle; import _ "` + modulePath + `/bt"`, ""},
		{"dialect on its parent", "wire/ltep/a.go", doc + `package ltep; import _ "` + modulePath + `/wire"`, ""},
		{"dialect on classic", "wire/ltep/a.go", doc + `package ltep; import _ "` + modulePath + `/wire/classic"`, ""},
		{"dialect on another", "wire/azmp/a.go", doc + `package azmp; import _ "` + modulePath + `/wire/ltep"`, "imports wire/ltep"},
		{"parent on dialect", "wire/a.go", doc + `package wire; import _ "` + modulePath + `/wire/ltep"`, "imports wire/ltep"},
		{"command on its own part", "cmd/parley/a.go", doc + `package main; import _ "` + modulePath + `/cmd/parley/internal/term"`, ""},
		{"command on another's part", "cmd/parley/a.go", doc + `package main; import _ "` + modulePath + `/cmd/other/x"`, "imports cmd/other/x"},
		{"command behind the API", "cmd/parley/a.go", doc + `package main; import _ "` + modulePath + `/internal/swarm"`, "only the public API"},
		{"test helper in production", "peer/a.go", doc + `package peer; import _ "` + modulePath + `/internal/simnet"`, "tests only"},
		{"test helper on the API", "internal/simnet/a.go", doc + `package simnet; import _ "` + modulePath + `"`, "below the public API"},
		{"test helper on a lower layer", "internal/wiretest/a.go", doc + `package wiretest; import _ "` + modulePath + `/wire"`, ""},
		{"net in a pure layer", "peer/a.go", doc + `package peer; import _ "net"`, "imports net"},
		{"below net", "peer/a.go", doc + `package peer; import _ "net/http"`, "imports net/http"},
		{"netip", "peer/a.go", doc + `package peer; import _ "net/netip"`, ""},
		{"os", "metainfo/a.go", doc + `package metainfo; import _ "os"`, "imports os"},
		{"context", "wire/a.go", doc + `package wire; import _ "context"`, "imports context"},
		{"crypto/rand", "obfs/mse/a.go", doc + `package mse; import _ "crypto/rand"`, "imports crypto/rand"},
		{"sync", "internal/picker/a.go", doc + `package picker; import _ "sync"`, "imports sync"},
		{"sync/atomic", "internal/picker/a.go", doc + `package picker; import _ "sync/atomic"`, "imports sync/atomic"},
		{"sync in blockbuf", "internal/blockbuf/a.go", doc + `package blockbuf; import _ "sync"`, ""},
		{"net above the pure layers", "internal/peerconn/a.go", doc + `package peerconn; import _ "net"`, ""},
		{"cgo", "storage/a.go", doc + `package storage; import "C"`, "cgo"},
		{"dot import", "storage/a.go", doc + `package storage; import . "fmt"`, "dot import"},
		{"third party in a pure layer", "wire/a.go", doc + `package wire; import _ "example.org/x"`, "outside the standard library"},
		{"permitted third party", "obfs/veil/a.go", doc + `package veil; import _ "golang.org/x/crypto/hkdf"`, ""},
		{"time.Now", "peer/a.go", doc + `package peer; import "time"; var now = time.Now`, "time.Now"},
		{"time.Now renamed", "peer/a.go", doc + `package peer; import clock "time"; var now = clock.Now()`, "time.Now"},
		{"timer", "peer/a.go", doc + `package peer; import "time"; func f() { time.AfterFunc(0, nil) }`, "time.AfterFunc"},
		{"durations", "peer/a.go", doc + `package peer; import "time"; const d = time.Second`, ""},
		{"global randomness", "internal/picker/a.go", doc + `package picker; import "math/rand/v2"; var n = rand.IntN(4)`, "rand/v2.IntN"},
		{"own randomness", "internal/picker/a.go", doc + `package picker; import "math/rand/v2"; func f(r *rand.Rand) int { return r.IntN(4) }`, ""},
		{"logger", "peer/a.go", doc + `package peer; import "log/slog"; var l *slog.Logger`, "slog.Logger"},
		{"log value", "wire/a.go", doc + `package wire; import "log/slog"; func f() slog.Value { return slog.StringValue("") }`, ""},
		{"standard output", "wire/a.go", doc + `package wire; import "fmt"; func f() { fmt.Println() }`, "fmt.Println"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fset := token.NewFileSet()
			pkgs, err := loadPackages(fstest.MapFS{tt.file: {Data: []byte(tt.src)}}, fset)
			if err != nil {
				t.Fatal(err)
			}
			if len(pkgs) != 1 {
				t.Fatalf("loaded %d packages, want 1", len(pkgs))
			}
			got := checkLayers(fset, pkgs, layerOf)
			switch {
			case tt.want == "" && len(got) > 0:
				t.Errorf("unexpected breach: %q", got)
			case tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)):
				t.Errorf("breaches %q, want one with %q", got, tt.want)
			}
		})
	}
}

// TestLayerTableBites checks that the result depends on the table: each package of this module, moved below the layers it
// imports or left out, is reported.
func TestLayerTableBites(t *testing.T) {
	fset := token.NewFileSet()
	pkgs, err := loadPackages(os.DirFS("."), fset)
	if err != nil {
		t.Fatal(err)
	}
	without := maps.Clone(layerOf)
	delete(without, "bt")
	if len(checkLayers(fset, pkgs, without)) == 0 {
		t.Error("bt left out of the table: not reported")
	}
	raised := maps.Clone(layerOf)
	raised["bt"] = 6
	if len(checkLayers(fset, pkgs, raised)) == 0 {
		t.Error("bt moved above the packages that import it: not reported")
	}
}

// TestForeignModulesAreSkipped checks that the walk stops at another module and at folders that hold no packages.
func TestForeignModulesAreSkipped(t *testing.T) {
	pkgs, err := loadPackages(fstest.MapFS{
		"go.mod":                 {Data: []byte("module x")},
		"bt/a.go":                {Data: []byte("package bt")},
		"bt/a_test.go":           {Data: []byte("package bt")},
		"bt/testdata/b.go":       {Data: []byte("package data")},
		"interop/go.mod":         {Data: []byte("module y")},
		"interop/a.go":           {Data: []byte("package interop")},
		".hidden/a.go":           {Data: []byte("package hidden")},
		"_old/a.go":              {Data: []byte("package old")},
		"bt/node_modules/x/a.go": {Data: []byte("package x")},
	}, token.NewFileSet())
	if err != nil {
		t.Fatal(err)
	}
	if len(pkgs) != 1 || pkgs[0].path != "bt" || len(pkgs[0].files) != 1 {
		t.Errorf("loaded %v, want the one file of bt", pkgs)
	}
}
