#!/usr/bin/env bash
# Fetches Debian's kernel for virtual machines, and prints the directory that it is in: vmlinuz, and lib/modules. Nothing is installed;
# apt checks the package's signature as for any other.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
dir=$top/.cache/kernel
arch=$(dpkg --print-architecture)
# package finds the package that the newest kernel of the right kind is in.
package() { apt-cache depends "linux-image-cloud-$arch" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -1; }
want=$(package)
if [ -n "$want" ] && [ "$(cat "$dir/done" 2>/dev/null)" = "$want" ]; then
	echo "$dir"
	exit
fi
if [ -z "$want" ] && [ -s "$dir/done" ]; then # without lists of packages the one that is there does
	echo "$dir"
	exit
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
chown _apt "$work" 2>/dev/null || true # the user that apt fetches as
fetch() { [ -n "$want" ] && (cd "$work" && apt-get download "$want" >&2); }
if ! fetch; then # the lists may be older than the archive
	apt-get update >&2
	want=$(package)
	[ -n "$want" ] || { echo "kernel: there is no package linux-image-cloud-$arch" >&2; exit 1; }
	fetch
fi
dpkg-deb -x "$work"/linux-image-*.deb "$work/root"
rm -rf "$dir"
mkdir -p "$dir"
mv "$work"/root/boot/vmlinuz-* "$dir/vmlinuz"
mv "$work/root/lib" "$dir/lib"
echo "$want" >"$dir/done"
echo "$dir"
