#!/usr/bin/env bash
# Installs the Debian packages that the demo or the tests need and that are missing. Nothing that is there is changed: a
# machine that runs Docker already keeps its engine, its containers and its configuration.
set -euo pipefail
what=${1:-demo}
[ "$(id -u)" = 0 ] || { echo "install: run as root: network namespaces, a Docker Engine of its own and system users need it" >&2; exit 1; }

missing=()
need() { # need COMMAND PACKAGE...
	local cmd=$1; shift
	command -v "$cmd" >/dev/null 2>&1 || PATH=$PATH:/usr/sbin:/sbin command -v "$cmd" >/dev/null 2>&1 || missing+=("$@")
}
need dockerd docker.io
need containerd containerd
need runc runc
need ip iproute2
need iptables iptables
need newuidmap uidmap
need rootlesskit rootlesskit
need slirp4netns slirp4netns
need qemu-aarch64-static qemu-user-static # builds for other processors
need git git
need curl curl ca-certificates
need ssh openssh-client # of git, and of who enters devices
need useradd passwd
need openvpn openvpn
need nft nftables
need flock util-linux
need column bsdextrautils
need mkfs.ext4 e2fsprogs
need pgrep procps
need dpkg-deb dpkg
need gcc gcc libc6-dev # SQLite in the server; the race detector
if [ "$what" = test ]; then
	need strings binutils
	need python3 python3 # a server on a LAN
	need node nodejs
	need npm npm
	need setpriv util-linux
	need sshd openssh-server # a device's own, as with balenaOS
	need pkcs11-tool opensc # keys of owners on tokens
	need softhsm2-util softhsm2
	need fido2-token fido2-tools
	need swtpm swtpm # a TPM in software
	need qemu-system-x86_64 qemu-system-x86 # virtual machines
	need debugfs e2fsprogs
	command -v chromium-browser >/dev/null 2>&1 || need chromium chromium
	compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
fi
[ ${#missing[@]} -eq 0 ] && exit 0

echo "install: ${missing[*]}"
# The engine's package would start a daemon of its own; ours are started by our scripts, so nothing may start now.
policy=/usr/sbin/policy-rc.d
made=()
trap 'rm -f "${made[@]}"' EXIT
if [ ! -e "$policy" ]; then
	made+=("$policy")
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi
# PostgreSQL's package would make a database cluster besides; the tests make their own.
clusters=/etc/postgresql-common/createcluster.d/roadstead-tests.conf
if [[ " ${missing[*]} " == *" postgresql "* ]]; then
	made+=("$clusters")
	mkdir -p "${clusters%/*}"
	echo "create_main_cluster = false" >"$clusters"
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
	cat "$log" >&2
	rm -f "$log"
	echo "install: could not install ${missing[*]}" >&2
	exit 1
fi
rm -f "$log"
