#!/bin/bash
# Makes the root file system of the base image base/busybox from Debian's package busybox-static.
#
#   base/busybox/make.sh -o FILE.tar     make it; import it with `roadsteadd admin base import base/busybox FILE.tar`
#   base/busybox/make.sh --update        record the package's present version and checksum in the lock file
#
# Two checks stand between the network and the image: apt verifies Debian's signature over the package list and the package's
# checksum in it, and the lock file in this directory names the one version and SHA-256 that we have looked at. The same
# lock gives the same archive, byte for byte.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
lock=$here/lock
package=busybox-static
arch=amd64
out=
update=

die() {
	echo "base/busybox: $*" >&2
	exit 1
}

while [ $# -gt 0 ]; do
	case $1 in
	-o)
		out=${2:?-o needs a file}
		shift 2
		;;
	--update)
		update=1
		shift
		;;
	*) die "unknown argument $1; see the top of $0" ;;
	esac
done
[ -n "$out$update" ] || die "give -o FILE or --update"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# apt drops to the user _apt for the download when that user can write here.
chmod 0755 "$work"
mkdir "$work/download"
if [ "$(id -u)" = 0 ] && id _apt >/dev/null 2>&1; then chown _apt "$work/download"; fi

# fetch VERSION: the package into $work/download. "" means the newest that apt knows.
fetch() {
	(cd "$work/download" && apt-get -q download -o APT::Get::AllowUnauthenticated=false \
		"$package:$arch${1:+=$1}" >"$work/apt.log" 2>&1)
}

# A machine that never ran `apt-get update` knows no package; a stale list names files that are gone from the mirror.
fetch_or_update() {
	fetch "$1" && return 0
	if [ "$(id -u)" = 0 ]; then
		apt-get -qq update >>"$work/apt.log" 2>&1 || true
		fetch "$1" && return 0
	fi
	cat "$work/apt.log" >&2
	return 1
}

if [ -n "$update" ]; then
	fetch_or_update "" || die "apt cannot download $package"
	deb=$(echo "$work"/download/*.deb)
	{
		echo "# $package for each architecture: version and SHA-256. Rewritten by make.sh --update."
		echo "$arch $(dpkg-deb -f "$deb" Version) $(sha256sum <"$deb" | cut -d' ' -f1)"
	} >"$lock"
	cat "$lock"
	[ -n "$out" ] || exit 0
	rm -f "$work"/download/*.deb
fi

read -r _ version want < <(grep "^$arch " "$lock") || die "the lock file names no $arch"
fetch_or_update "$version" ||
	die "apt cannot download $package $version; if Debian has replaced it, look at the new one and run $0 --update"
deb=$(echo "$work"/download/*.deb)
got=$(sha256sum <"$deb" | cut -d' ' -f1)
[ "$got" = "$want" ] || die "$(basename "$deb") has SHA-256 $got, but the lock file says $want"

dpkg-deb -x "$deb" "$work/package"
root=$work/root
mkdir -p "$root"/{bin,dev,etc,home,proc,root,run,sbin,sys,tmp,usr/bin,usr/sbin,var/log,var/tmp,usr/share/doc/busybox-static}
cp "$work/package/bin/busybox" "$root/bin/busybox"
cp "$work/package/usr/share/doc/busybox-static/copyright" "$root/usr/share/doc/busybox-static/copyright"
chmod 0755 "$root/bin/busybox"
# Running the program to list its applets needs its architecture; today that is this machine's.
"$root/bin/busybox" --list-full | while read -r applet; do
	case $applet in
	bin/busybox | linuxrc) continue ;;
	esac
	mkdir -p "$root/$(dirname "$applet")"
	ln -s /bin/busybox "$root/$applet"
done
ln -s /run "$root/var/run"
cat >"$root/etc/passwd" <<-'PASSWD'
	root:x:0:0:root:/root:/bin/sh
	nobody:x:65534:65534:nobody:/:/bin/false
PASSWD
cat >"$root/etc/group" <<-'GROUP'
	root:x:0:
	nobody:x:65534:
GROUP
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
find "$root" -type d -exec chmod 0755 {} +
find "$root/etc" "$root/usr/share" -type f -exec chmod 0644 {} +
chmod 1777 "$root/tmp" "$root/var/tmp"
chmod 0700 "$root/root"

# The time of the package's build, so that the archive depends on the lock file alone.
stamp=$(stat -c %Y "$work/package/bin/busybox")
tar --create --sort=name --format=posix --pax-option=delete=atime,delete=ctime --mtime="@$stamp" \
	--owner=0 --group=0 --numeric-owner --directory "$root" --file "$work/root.tar" .
mkdir -p "$(dirname "$out")"
mv "$work/root.tar" "$out.new"
mv "$out.new" "$out"
echo "base/busybox: $package $version -> $out ($(stat -c %s "$out") bytes)"
