module github.com/parley-bt/parley

go 1.26
