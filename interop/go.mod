module github.com/parley-bt/parley/interop

go 1.26.0

ignore ./node/node_modules

require github.com/parley-bt/parley v0.0.0

replace github.com/parley-bt/parley => ..
