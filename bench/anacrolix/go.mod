module github.com/parley-bt/parley/bench/anacrolix

go 1.26.0

require (
	github.com/anacrolix/torrent v1.62.0
	github.com/parley-bt/parley/bench v0.0.0
)

require (
	github.com/anacrolix/generics v0.2.0 // indirect
	golang.org/x/exp v0.0.0-20251113190631-e25ba8c21ef6 // indirect
)

replace github.com/parley-bt/parley/bench => ../

replace github.com/parley-bt/parley => ../../
