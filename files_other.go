//go:build !unix

package parley

// maxOpenFiles returns how many files this process may have open; false if that cannot be said.
func maxOpenFiles() (int, bool) { return 0, false }
