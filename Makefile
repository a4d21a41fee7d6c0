# Everything a contributor or an operator starts from a checkout. `make help` lists it.
SHELL := /bin/bash
export CGO_ENABLED ?= 0
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT_DATE := $(shell git log -1 --format=%cI 2>/dev/null)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.built=$(COMMIT_DATE)
PROGRAMS := roadstead roadstead-agent
# Of SQLite in the server, see docs/decisions/0015: c, go, or auto, which is c where a C compiler can link statically.
SQLITE ?= auto

.PHONY: help demo demo-down build build-server test check lint bench agents clean install-demo install-test

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

demo: install-demo build bin/buildkitd .cache/base/busybox.tar ## run the whole platform and a virtual device on this machine (as root)
	@scripts/demo.sh up

demo-down: ## remove every trace of the demo
	@scripts/demo.sh down

build: build-server ## build every program into bin/
	@for p in $(PROGRAMS); do echo "build bin/$$p"; go build -trimpath -ldflags '$(LDFLAGS)' -o bin/$$p ./cmd/$$p || exit 1; done

build-server:
	@mkdir -p bin
	@how='$(SQLITE)'; \
	if [ "$$how" = auto ]; then \
	  how=c; printf 'int main(void) { return 0; }' | $${CC:-gcc} -static -x c -o /dev/null - 2>/dev/null || how=go; \
	fi; \
	if [ "$$how" = c ]; then \
	  echo "build bin/roadsteadd (to compile SQLite takes a minute the first time)"; \
	  CGO_ENABLED=1 go build -trimpath -tags netgo,osusergo,sqlite_omit_load_extension \
	    -ldflags '$(LDFLAGS) -linkmode external -extldflags -static' -o bin/roadsteadd ./cmd/roadsteadd; \
	else \
	  echo "build bin/roadsteadd with SQLite in Go; in C (install gcc and libc6-dev) it takes half of the time"; \
	  CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/roadsteadd ./cmd/roadsteadd; \
	fi

agents: ## build the agent for every architecture that devices have
	@mkdir -p bin
	@for a in amd64 arm64 arm; do echo "build bin/roadstead-agent-linux-$$a"; \
	  GOOS=linux GOARCH=$$a GOARM=7 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/roadstead-agent-linux-$$a ./cmd/roadstead-agent || exit 1; done

bin/buildkitd: tools/buildkitd/go.mod tools/buildkitd/go.sum
	@echo "build bin/buildkitd (some minutes the first time)"
	@mkdir -p bin
	@cd tools/buildkitd && go build -trimpath -ldflags '-s -w' -o ../../bin/buildkitd github.com/moby/buildkit/cmd/buildkitd

bin/oci-conformance: tools/conformance/go.mod tools/conformance/go.sum
	@echo "build bin/oci-conformance"
	@mkdir -p bin
	@cd tools/conformance && go build -trimpath -o ../../bin/oci-conformance github.com/opencontainers/distribution-spec/conformance

bin/versitygw: tools/versitygw/go.mod tools/versitygw/go.sum
	@echo "build bin/versitygw (some minutes the first time)"
	@mkdir -p bin
	@cd tools/versitygw && go build -trimpath -ldflags '-s -w' -o ../../bin/versitygw github.com/versity/versitygw/cmd/versitygw

.cache/base/busybox.tar: base/suites.json base/busybox/recipe.json base/busybox/lock.json base/busybox/applets
	@mkdir -p .cache/base
	@go run -trimpath ./cmd/roadsteadd base make base/busybox --recipes base --cache .cache/base/fetched -o $@

install-demo:
	@scripts/install.sh demo

install-test:
	@scripts/install.sh test

test: install-test build agents bin/buildkitd bin/oci-conformance bin/versitygw .cache/base/busybox.tar ## prove it: unit tests, real parts, the real balena CLI
	@scripts/test.sh

check: test lint ## what a reviewer runs

lint: ## formatting, vet, golangci-lint
	@scripts/lint.sh

bench: build ## print the figures of the hot paths
	@ROADSTEAD_BIN=$(CURDIR)/bin go test -p 1 -run '^$$' -bench . -timeout 90m ./bench/... ./internal/device/nudge

clean: ## remove what was built here
	rm -rf bin .cache
