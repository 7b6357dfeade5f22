# Everything that is done with midspan, from a checkout. `make` lists it.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
FUZZTIME ?= 60s

.DEFAULT_GOAL := help
.PHONY: help demo build test test-units test-behaviour test-races test-behaviour-races test-clients user e2e bench conformance lint fuzz clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build ## see it work: two web servers, a failure, a DNS change, reloads, a drain
	@go run ./demo bin/midspan

build: ## build the static binary, bin/midspan
	@CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/midspan ./cmd/midspan

# They wait more than they compute, so several run at once. What costs time and shows
# nothing of races is not run with the race detector.
test: lint ## lint, unit tests, behaviour suite, Kafka clients; under 6 minutes
	@$(MAKE) --no-print-directory -j2 test-units test-behaviour
	@$(MAKE) --no-print-directory -j3 test-races test-behaviour-races test-clients

test-units:
	go test -p 4 $(TESTFLAGS) -skip '^TestBehaviour' ./...

test-behaviour:
	go test $(TESTFLAGS) -run '^TestBehaviour' ./internal/engine/relay

test-races:
	go test -p 4 $(TESTFLAGS) -race -short -skip '^TestBehaviour|BetweenMachines|Cost|Documented' ./...

test-behaviour-races:
	go test $(TESTFLAGS) -race -short -run '^TestBehaviour$$' ./internal/engine/relay

test-clients:
	cd kafkatest && go vet ./... && go test -count=1 -parallel 8 $(TESTFLAGS) ./...

user: ## the engines once more, as nobody and not as root
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && chmod 755 "$$dir" && \
	for engine in relay nft; do \
		go test -c -o "$$dir/$$engine.test" ./internal/engine/$$engine && cd "$$dir" && \
		echo "$$engine as nobody" && \
		setpriv --reuid 65534 --regid 65534 --clear-groups env TMPDIR=/tmp "./$$engine.test" -test.short -test.run '^Test(Engine|Behaviour)' || exit 1; \
		cd - > /dev/null; \
	done

e2e: build ## real databases, web servers and long runs; needs what .ci/run installs
	cd e2e && go vet ./... && go test -p 1 -count=1 -timeout 40m $(TESTFLAGS) ./... # one package after the other: they load the machine
	cd bench && go vet ./... && go test -count=1 -timeout 30m $(TESTFLAGS) ./... # of 10 minutes a busy machine takes 7
	cd conformance/nginx && go vet ./... && go test -count=1 $(TESTFLAGS) ./...
	$(MAKE) fuzz

bench: build ## beside HAProxy, nginx, iptables and others, 25 minutes; BENCH=quick: 2
	@cd bench && go run . $(BENCHFLAGS)

conformance: ## NGINX_TESTS=DIR: nginx's own tests of its stream module, on midspan; docs/conformance.md
	@test -n "$(NGINX_TESTS)" || { echo "NGINX_TESTS=DIR is missing: a copy of github.com/nginx/nginx-tests"; exit 2; }
	@cd conformance/nginx && go run ./suite -tests "$(abspath $(NGINX_TESTS))" $(CONFORMANCEFLAGS)

# The mere end of -fuzztime may be called a failure, "context deadline exceeded", of no
# input (golang/go#75804, mended in Go 1.27): such a target gets a second run.
fuzz: ## every fuzz target for FUZZTIME (60s)
	@log=$$(mktemp) && trap 'rm -f "$$log"' EXIT && \
	go list ./... | while read -r pkg; do \
		for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			for try in 1 2; do \
				echo "fuzz $$pkg $$target"; \
				{ go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg 2>&1 || echo "failed: $$target"; } | tee "$$log"; \
				grep -q '^failed: ' "$$log" || break; \
				[ $$try = 1 ] && grep -q '^ *context deadline exceeded$$' "$$log" && ! grep -q 'Failing input' "$$log" || exit 1; \
			done; \
		done; \
	done

lint: ## gofumpt, go vet, staticcheck
	@unformatted=$$(go tool gofumpt -l .); test -z "$$unformatted" || { echo "gofumpt would change:"; echo "$$unformatted"; exit 1; }
	@go vet ./...
	@go tool staticcheck ./...

clean: ## remove what was built
	rm -rf bin bench/results-local
