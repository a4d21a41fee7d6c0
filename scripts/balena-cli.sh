#!/usr/bin/env bash
# Installs the real balena CLI, unmodified, for tests only, and prints the path of its program. No install script of any
# package runs; the one binary that it needs is built from the Go source inside its own npm package. Node comes with it: the
# CLI wants a newer one than Debian 12 has.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
dir=$top/.cache/balena-cli
cli=$dir/balena
parser=$dir/node_modules/@balena/compose-parser
if ! cmp -s "$top/tools/balena-cli/package-lock.json" "$dir/package-lock.json" || [ ! -x "$parser/bin/balena-compose-parser" ]; then
	rm -rf "$dir"
	mkdir -p "$dir"
	cp "$top/tools/balena-cli/package.json" "$dir/"
	cp "$top/tools/balena-cli/package-lock.json" "$dir/lock.json"
	cp "$top/tools/balena-cli/package-lock.json" "$dir/package-lock.json"
	(cd "$dir" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2)
	(cd "$parser" && CGO_ENABLED=0 GOFLAGS=-mod=mod go build -C lib -ldflags='-s -w' -o ../bin/balena-compose-parser >&2)
	node=$(ls "$dir"/node_modules/node-linux-*/bin/node)
	printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$node" "$dir/node_modules/balena-cli/bin/run.js" >"$cli"
	chmod 755 "$cli"
	mv "$dir/lock.json" "$dir/package-lock.json"
fi
echo "$cli"
