module github.com/parley-bt/parley/bench

go 1.26.0

require github.com/parley-bt/parley v0.0.0

replace github.com/parley-bt/parley => ../
