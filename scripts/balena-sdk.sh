#!/usr/bin/env bash
# Installs the real balena SDK, unmodified, for tests only, and prints the path of a program that runs a JavaScript file with it:
# the Node of scripts/balena-cli.sh, with tools/balena-sdk and its locked packages around the file. No install script of any
# package runs.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
"$top/scripts/balena-cli.sh" >/dev/null # brings Node and npm
modules=$top/.cache/balena-cli/node/node_modules
node=$(echo "$modules"/node-linux-*/bin/node)
dir=$top/.cache/balena-sdk
done=$dir/done
want=$(cat "$0" "$top/tools/balena-sdk/package-lock.json" | sha256sum)
if [ "$(cat "$done" 2>/dev/null)" != "$want" ]; then
	rm -rf "$dir"
	mkdir -p "$dir"
	cp "$top"/tools/balena-sdk/package*.json "$dir/"
	(cd "$dir" && PATH=$(dirname "$node"):$PATH "$top/scripts/again.sh" "$node" "$modules/npm/bin/npm-cli.js" ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2)
	ln -s "$top/tools/balena-sdk/suite" "$dir/suite" # its files are the checkout's, its packages are those here
	printf '#!/bin/sh\ncd "%s" && exec "%s" --preserve-symlinks --preserve-symlinks-main "$@"\n' "$dir" "$node" >"$dir/run"
	chmod 755 "$dir/run"
	echo "$want" >"$done"
fi
echo "$dir/run"
