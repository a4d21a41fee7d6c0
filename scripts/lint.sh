#!/usr/bin/env bash
# Formatting, vet and golangci-lint over the module. The linter is built from a module of its own, tools/lint.
set -euo pipefail
cd "$(dirname "$0")/.."
unformatted=$(git ls-files '*.go' | xargs -r gofmt -l)
if [ -n "$unformatted" ]; then
	echo "lint: not gofmt-ed:" >&2
	echo "$unformatted" >&2
	exit 1
fi
go vet ./...
lint=$PWD/.cache/golangci-lint
if [ ! -x "$lint" ] || [ tools/lint/go.sum -nt "$lint" ]; then
	echo "lint: building golangci-lint (some minutes the first time)"
	mkdir -p .cache
	(cd tools/lint && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$lint" github.com/golangci/golangci-lint/v2/cmd/golangci-lint)
fi
"$lint" run ./...
