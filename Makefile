# What a developer runs; .ci/run runs the same. `make help` lists the targets.

GO          ?= go
FUZZTIME    ?= 5s
TESTFLAGS   ?=
# What interop tests to run, as go test's -run.
INTEROP_RUN ?= .
FILE        ?= README.md
# What mutants to try, as a regular expression on the name of the attack.
MUTANTS     ?= .
# How often "make crash" kills.
N           ?= 200
# What platforms "make cross" builds for; none is all.
PLATFORMS   ?=
# Over how many seeds "make sim" simulates.
SEEDS       ?= 200

.PHONY: help build test run lint fuzz cross interop interop-deps bench clean crash attacks mutants sim hellos

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

build: ## the program, as ./bin/parley
	CGO_ENABLED=0 $(GO) build -o bin/ ./cmd/parley

test: ## everything that needs no other client; nothing but Go is required
	@.ci/test $(TESTFLAGS)

run: ## a demonstration over loopback: share, fetch, talk (FILE=... to share something of yours)
	@$(GO) run ./internal/demo -file "$(FILE)"

lint: ## gofmt, vet, staticcheck, go mod tidy -diff, go fix -diff
	@.ci/lint

fuzz: ## every fuzzer for FUZZTIME each
	@.ci/fuzz $(FUZZTIME)

cross: ## build and vet for every platform we promise (PLATFORMS=... for some)
	@.ci/cross $(PLATFORMS)

interop: interop-deps ## real clients on loopback; installs what is missing (apt as root, npm)
	cd interop && $(GO) test -count=1 -timeout 15m -v -run '$(INTEROP_RUN)' $(TESTFLAGS) ./...

interop-deps:
	@.ci/interop-deps

crash: ## kill a download N times at random points, and see that nothing is lost
	PARLEY_CRASHES=$(N) $(GO) test ./storage -count=1 -timeout 30m -v -run '^TestKilled$$' $(TESTFLAGS)

attacks: ## a client under attack, over sockets and in the simulated network; leaves the tables of docs/attacks.md in bin
	@mkdir -p bin
	PARLEY_ATTACKS="$(CURDIR)/bin/attacks-sockets.md" $(GO) test ./internal/attack -count=1 -timeout 20m -v -run '^TestAttacks$$' $(TESTFLAGS)
	PARLEY_ATTACKS=1 PARLEY_SLOW_ATTACKS="$(CURDIR)/bin/attacks-slow.md" $(GO) test ./internal/swarm -count=1 -timeout 20m -v -run '^Test(Slow)?Attacks$$' $(TESTFLAGS)

hellos: ## the stories of internal/swarm once more, with nodes that dial by MSE and with the veil
	$(GO) test ./internal/swarm -count=1 -timeout 5m $(TESTFLAGS) -args -hello=mse
	$(GO) test ./internal/swarm -count=1 -timeout 5m $(TESTFLAGS) -args -hello=veil

mutants: ## take one check out at a time: the attack it answers must get through and its test fail (MUTANTS=... some of them)
	PARLEY_MUTANTS='$(MUTANTS)' $(GO) test ./internal/attack -count=1 -timeout 60m -v -run '^TestMutants$$' $(TESTFLAGS)

sim: ## simulated swarms over SEEDS seeds: blame, throughput, latency, free riders, fifty peers that come and go; see docs/simulation.md
	PARLEY_SIM_SEEDS=$(SEEDS) $(GO) test ./internal/swarm -count=1 -timeout 4h -v -run '^(TestCorrupterAmongFour|TestThroughput|TestLatency|TestFreeRiders|TestMixedSwarm)$$' $(TESTFLAGS)

bench: ## side by side with other clients; see docs/benchmarks.md
	cd bench && ./run.sh

clean: ## remove what the targets above made
	rm -rf bin interop/node/node_modules interop/webtorrent/node_modules
