#!/usr/bin/env bash
# Installs the real balena CLI, unmodified, for tests only, and prints the path of its program. No install script of any
# package runs; the one binary that it needs is built from the Go source inside its own npm package. Node and npm come as
# packages too, because the CLI wants newer ones than Debian 12 has.
set -euo pipefail
node_version=24.21.0
npm_version=11.6.2

top=$(cd "$(dirname "$0")/.." && pwd)
dir=$top/.cache/balena-cli
cli=$dir/balena
case $(uname -m) in
x86_64) arch=x64 ;;
aarch64) arch=arm64 ;;
*) echo "balena-cli: there is no Node for $(uname -m)" >&2 && exit 1 ;;
esac
done=$dir/done
want=$(cat "$0" "$top/tools/balena-cli/package-lock.json" | sha256sum)
if [ "$(cat "$done" 2>/dev/null)" != "$want" ]; then
	rm -rf "$dir"
	mkdir -p "$dir/node"
	quiet=(--ignore-scripts --no-audit --no-fund --loglevel=error)
	echo '{"private": true}' >"$dir/node/package.json"
	(cd "$dir/node" && "$top/scripts/again.sh" npm install "${quiet[@]}" --no-save --force "node-linux-$arch@$node_version" "npm@$npm_version" >&2)
	node=$dir/node/node_modules/node-linux-$arch/bin/node
	cp "$top"/tools/balena-cli/package*.json "$dir/"
	(cd "$dir" && PATH=$(dirname "$node"):$PATH "$top/scripts/again.sh" "$node" "$dir/node/node_modules/npm/bin/npm-cli.js" ci "${quiet[@]}" >&2)
	parser=$dir/node_modules/@balena/compose-parser
	(cd "$parser" && CGO_ENABLED=0 GOFLAGS=-mod=mod go build -C lib -ldflags='-s -w' -o ../bin/balena-compose-parser >&2)
	printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$node" "$dir/node_modules/balena-cli/bin/run.js" >"$cli"
	chmod 755 "$cli"
	echo "$want" >"$done"
fi
echo "$cli"
