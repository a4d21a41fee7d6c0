#!/usr/bin/env bash
# Builds the certified OpenID Connect provider that the tests sign in with, and prints the path of the program.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$top/.cache"
cd "$top/tools/oidc-provider"
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$top/.cache/oidc-provider" .
echo "$top/.cache/oidc-provider"
