//go:build !windows

package storage

// canSyncDir says whether folders can be synced like files.
const canSyncDir = true
