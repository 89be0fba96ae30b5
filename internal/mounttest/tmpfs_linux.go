package mounttest

import (
	"syscall"
	"testing"
)

// Tmpfs mounts a file system in memory of the given size, as tmpfs(5) writes it ("1m"), until the test ends, and returns its folder. resize changes the size. A test
// that may not mount is skipped.
func Tmpfs(t testing.TB, size string) (dir string, resize func(size string)) {
	t.Helper()
	dir = t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("mounting a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir, func(size string) {
		t.Helper()
		if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size="+size); err != nil {
			t.Fatal(err)
		}
	}
}
