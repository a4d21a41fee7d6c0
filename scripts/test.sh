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
# proven runs `go test -v` and shows what matters of its output: `proven REGEXP COMMAND…` prints the lines that match as they
# come, and everything when the tests fail. A test that skips proves nothing, so it fails the run: everything that a test may
# need is installed and built by now.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
proven() {
	local show=$1 code
	shift
	set +e # the status that counts is that of the tests, not of what shows them
	"$@" 2>&1 | tee "$log" | grep --line-buffered -E "$show"
	code=${PIPESTATUS[0]}
	set -e
	if [ "$code" != 0 ]; then
		grep -v -E '^=== (RUN|PAUSE|CONT|NAME)|^ *--- PASS' "$log" >&2
		return "$code"
	fi
	if grep -B 1 -E '^ *--- SKIP' "$log" >&2; then
		echo "test: these tests were skipped; here nothing may be" >&2
		return 1
	fi
}
section() { printf '\n== %s (%ds)\n' "$*" "$(($(date +%s) - start))"; }

if [ "$what" = all ] || [ "$what" = unit ]; then
	section "repository"
	unformatted=$(git ls-files '*.go' | xargs -r gofmt -l)
	[ -z "$unformatted" ] || { echo "not gofmt-ed: $unformatted" >&2; exit 1; }
	go vet ./...
	go test -count=1 ./internal/repotest
	section "packages, with the race detector"
	# shellcheck disable=SC2046
	CGO_ENABLED=1 proven '^(ok|FAIL)' go test -race -v -timeout 20m $(go list ./... | grep -v -e /internal/fleettest -e /internal/repotest -e /bench)
fi
if [ "$what" = all ] || [ "$what" = e2e ]; then
	section "the real balena CLI and SDK"
	ROADSTEAD_BALENA_CLI=$(scripts/balena-cli.sh)
	ROADSTEAD_BALENA_SDK=$(scripts/balena-sdk.sh)
	export ROADSTEAD_BALENA_CLI ROADSTEAD_BALENA_SDK
	section "end to end: real server, real engine, real device"
	proven '^(ok|FAIL)|^ *(---|[a-z]+_test.go:)' go test -count=1 -timeout 30m -v "$@" ./internal/fleettest/...
fi
section "done"
