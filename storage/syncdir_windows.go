package storage

// canSyncDir is false: Windows flushes no folders, and NTFS journals their changes in order.
const canSyncDir = false
