#!/usr/bin/env bash
# Runs every test, on real parts. `make test` has built the programs, buildkitd and the base image before.
#
#   scripts/test.sh            everything
#   scripts/test.sh unit       packages without the end-to-end suite
#   scripts/test.sh e2e [-run REGEXP]
set -euo pipefail
cd "$(dirname "$0")/.."
top=$PWD
what=${1:-all}
[ $# -gt 0 ] && shift
export ROADSTEAD_BIN=$top/bin
export ROADSTEAD_BUILDKITD=$top/bin/buildkitd
export ROADSTEAD_BASE_BUSYBOX=$top/.cache/base/busybox.tar
export ROADSTEAD_DOCKER_TESTS=1

start=$(date +%s)
section() { printf '\n== %s (%ds)\n' "$*" "$(($(date +%s) - start))"; }

if [ "$what" = all ] || [ "$what" = unit ]; then
	section "repository"
	unformatted=$(git ls-files '*.go' | xargs -r gofmt -l)
	[ -z "$unformatted" ] || { echo "not gofmt-ed: $unformatted" >&2; exit 1; }
	go vet ./...
	go test -count=1 ./internal/repotest
	section "packages, with the race detector"
	# shellcheck disable=SC2046
	CGO_ENABLED=1 go test -race -timeout 20m $(go list ./... | grep -v -e /internal/fleettest -e /internal/repotest -e /bench)
fi
if [ "$what" = all ] || [ "$what" = e2e ]; then
	section "the real balena CLI"
	ROADSTEAD_BALENA_CLI=$(scripts/balena-cli.sh)
	export ROADSTEAD_BALENA_CLI
	section "end to end: real server, real engine, real device"
	go test -count=1 -timeout 30m -v "$@" ./internal/fleettest/... | grep -v -E '^=== (RUN|PAUSE|CONT)' 
fi
section "done"
