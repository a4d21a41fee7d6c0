#!/usr/bin/env bash
# Installs what drives Chromium in tests, and prints the path of the program. Chromium itself is Debian's; no install script of any
# package runs.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
dir=$top/.cache/browser
chromium=$(command -v chromium || command -v chromium-browser) || { echo "browser: Chromium is not installed; scripts/install.sh test does it" >&2; exit 1; }
want=$(cat "$0" "$top/tools/browser/package-lock.json" "$top/tools/browser/drive.mjs" | sha256sum)
if [ "$(cat "$dir/done" 2>/dev/null)" != "$want" ]; then
	rm -rf "$dir"
	mkdir -p "$dir"
	cp "$top"/tools/browser/package*.json "$top/tools/browser/drive.mjs" "$dir/"
	(cd "$dir" && "$top/scripts/again.sh" npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2)
	printf '#!/bin/sh\nexec node "%s/drive.mjs" "%s"\n' "$dir" "$chromium" >"$dir/browser"
	chmod 755 "$dir/browser"
	echo "$want" >"$dir/done"
fi
echo "$dir/browser"
