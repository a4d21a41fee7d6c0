#!/usr/bin/env bash
# Installs the real balena CLI, unmodified, for tests only, and prints the path of its program. No install script of any
# package runs; the one binary that it needs is built from the Go source inside its own npm package.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
dir=$top/.cache/balena-cli
cli=$dir/node_modules/.bin/balena
parser=$dir/node_modules/@balena/compose-parser
if ! cmp -s "$top/tools/balena-cli/package-lock.json" "$dir/package-lock.json" || [ ! -x "$parser/bin/balena-compose-parser" ]; then
	rm -rf "$dir"
	mkdir -p "$dir"
	cp "$top/tools/balena-cli/package.json" "$dir/"
	cp "$top/tools/balena-cli/package-lock.json" "$dir/lock.json"
	cp "$top/tools/balena-cli/package-lock.json" "$dir/package-lock.json"
	(cd "$dir" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2)
	(cd "$parser" && CGO_ENABLED=0 GOFLAGS=-mod=mod go build -C lib -ldflags='-s -w' -o ../bin/balena-compose-parser >&2)
	mv "$dir/lock.json" "$dir/package-lock.json"
fi
echo "$cli"
