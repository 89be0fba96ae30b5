// Package mounttest gives tests file systems of their own, small ones that can be full, where the machine lets a test mount something. It knows nothing of
// torrents.
package mounttest
