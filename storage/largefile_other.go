//go:build !linux

package storage

// largeFile is nothing that these systems need.
const largeFile = 0
