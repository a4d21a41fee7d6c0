#!/usr/bin/env bash
# Fetches Debian's kernel for virtual machines, and prints the directory that it is in: vmlinuz, and lib/modules. Nothing is installed;
# apt checks the package's signature as for any other.
#
#   scripts/kernel.sh        the one for virtual machines, which is small
#   scripts/kernel.sh hid    the one for all machines, which knows devices that are plugged in; of its modules those for them, and for what QEMU has
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
arch=$(dpkg --print-architecture)
wanted=('./boot/vmlinuz-*' ./lib/modules)
case ${1:-} in
'') dir=$top/.cache/kernel image=linux-image-cloud-$arch ;;
hid)
	dir=$top/.cache/kernel-hid image=linux-image-$arch
	wanted=('./boot/vmlinuz-*')
	for modules in drivers/hid drivers/virtio drivers/net/virtio_net.ko drivers/net/net_failover.ko net/core drivers/block/virtio_blk.ko; do
		wanted+=("./lib/modules/*/kernel/$modules")
	done
	;;
*) echo "kernel: there is no kind $1" >&2; exit 1 ;;
esac
# package finds the package that the newest kernel of the right kind is in.
package() { apt-cache depends "$image" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -1; }
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
	[ -n "$want" ] || { echo "kernel: there is no package $image" >&2; exit 1; }
	fetch
fi
mkdir "$work/root"
dpkg-deb --fsys-tarfile "$work"/linux-image-*.deb | tar -x -C "$work/root" --wildcards "${wanted[@]}"
rm -rf "$dir"
mkdir -p "$dir"
mv "$work"/root/boot/vmlinuz-* "$dir/vmlinuz"
mv "$work/root/lib" "$dir/lib"
echo "$want" >"$dir/done"
echo "$dir"
