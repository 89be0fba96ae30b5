package storage

import "syscall"

// largeFile goes with every open. On 32-bit systems os.OpenFile adds it but os.Root, as of Go 1.26, does not,
// and without it no file may pass 2 GiB.
const largeFile = syscall.O_LARGEFILE
