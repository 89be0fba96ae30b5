#!/bin/sh
# Runs the benchmarks side by side with other clients; arguments go to ./run (see go run ./run -h).
cd "$(dirname "$0")" || exit 1
exec go run ./run "$@"
