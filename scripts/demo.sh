#!/usr/bin/env bash
# The whole platform on this machine: a server, a fleet, a push, and a virtual device with a Docker Engine of its own.
#
#   scripts/demo.sh up      start what is missing; running it again changes nothing that is right
#   scripts/demo.sh down    remove every trace: processes, namespaces, interfaces, mounts, hosts entries, files
#
# The server listens on an address of its own, one more of the loopback interface, so that no port of the machine is taken.
set -euo pipefail
cd "$(dirname "$0")/.."
top=$PWD
demo=$top/.demo
data=$demo/data
domain=roadstead.test
address=10.213.0.1
marker="# roadstead demo"
fleet=hello
device=demo
services=(api dashboard registry2 builder git cloudlink vpn tunnel devices)
start=$(date +%s%N)

say() { local t=$((($(date +%s%N) - start) / 100000000)); printf '%4d.%ds  %s\n' $((t / 10)) $((t % 10)) "$*"; }
fail() { echo "demo: $*" >&2; exit 1; }
PATH=$top/bin:$PATH:/usr/sbin:/sbin

network() {
	ip address replace "$address/32" dev lo
}

hosts() { # one marked line in /etc/hosts, added under a lock
	local names=$domain s
	for s in "${services[@]}" ssh.devices; do names+=" $s.$domain"; done
	hosts_line="$address $names"
	(
		flock 9
		if ! grep -qF "$hosts_line $marker" /etc/hosts; then
			if grep -F "$marker" /etc/hosts >/dev/null; then unhost; fi
			printf '%s %s\n' "$hosts_line" "$marker" >>/etc/hosts
		fi
	) 9</run/lock # the directory itself, so that no lock file stays behind
}

unhost() { # /etc/hosts may be a mount, so it is rewritten in place, and cut only then: whoever reads meanwhile finds the rest
	local rest
	rest=$(grep -vF "$marker" /etc/hosts || true)
	printf '%s\n' "$rest" | dd of=/etc/hosts conv=notrunc status=none
	truncate -s "$(printf '%s\n' "$rest" | wc -c)" /etc/hosts
}

server_up() {
	roadsteadd status --data "$data" >/dev/null 2>&1
}

# server_pid: the server's process, if it still runs. After a reboot the number may be another program's.
server_pid() {
	local pid
	read -r pid 2>/dev/null <"$demo/server.pid" || return 1
	tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -q "roadsteadd up --data $data " || return 1
	echo "$pid"
}

server() {
	if server_up; then
		say "server: already up"
		return
	fi
	if server_pid >/dev/null; then
		fail "the server is running but not healthy: roadsteadd status --data $data; log in .demo/server.log"
	fi
	mkdir -p "$data"
	rm -f "$demo/server.out" # the last run's "ready" is not this one's
	setsid nohup roadsteadd up --data "$data" --domain "$domain" --listen "$address:443" --poll-interval 2s \
		>"$demo/server.out" 2>>"$demo/server.log" </dev/null &
	echo $! >"$demo/server.pid"
	local i
	for i in $(seq 600); do
		grep -q '^ready ' "$demo/server.out" 2>/dev/null && break
		kill -0 "$(cat "$demo/server.pid")" 2>/dev/null || { tail -5 "$demo/server.log" >&2; fail "the server ended, see .demo/server.log"; }
		sleep 0.1
	done
	grep -q '^ready ' "$demo/server.out" || fail "the server did not become ready within 60 s, see .demo/server.log"
	say "server: $(cat "$demo/server.out")"
}

field() { sed -n "s/.*\"$1\": *\"\\([^\"]*\\)\".*/\\1/p" "$data/admin.json" | head -1; }

environment() {
	umask 077
	cat >"$demo/env" <<END
# Source this file: . .demo/env
export ROADSTEAD_URL=https://api.$domain
export ROADSTEAD_TOKEN=$(field api_key)
export ROADSTEAD_FLEET=$fleet
export ROADSTEAD_EMAIL=$(field email)
export ROADSTEAD_PASSWORD='$(field password)'
export SSL_CERT_FILE=$data/ca.pem
export BALENARC_BALENA_URL=$domain
export NODE_EXTRA_CA_CERTS=$data/ca.pem
export BALENARC_DATA_DIRECTORY=$demo/balena
export BALENARC_NO_ANALYTICS=1
export BALENARC_NO_SENTRY=1
export BALENARC_UNSUPPORTED=1
export PATH=$top/bin:\$PATH
END
	mkdir -p "$demo/balena" # where balena's command line keeps who is logged in
	printf %s "$(field api_key)" >"$demo/balena/token"
	umask 022
	# shellcheck disable=SC1091
	. "$demo/env"
}

base_image() {
	if [ -e "$demo/base.done" ] && [ "$demo/base.done" -nt "$top/.cache/base/busybox.tar" ]; then
		return
	fi
	roadsteadd admin base import base/busybox "$top/.cache/base/busybox.tar" --data "$data" >/dev/null
	touch "$demo/base.done"
	say "base image base/busybox: imported"
}

fleet_and_release() {
	local made
	if roadstead fleet show "$fleet" >/dev/null 2>&1; then
		say "fleet $fleet: there already"
	else
		made=$(roadstead fleet create "$fleet" --type generic-amd64 2>&1) || fail "$made"
		say "fleet $fleet: created"
	fi
	if roadstead release list "$fleet" -o json | grep -q '"status": *"success"'; then
		say "release: there already"
	else
		roadstead push "$fleet" "$top/examples/hello" 2>&1 | sed 's/^/         | /'
		say "release: built from examples/hello"
	fi
}

virtual_device() {
	local made
	if [ ! -f "$demo/config.json" ] && [ ! -d "$demo/device" ]; then
		made=$(roadstead device init "$fleet" --name "$device" --uses 1 --expires 1h --force -o "$demo/config.json" 2>&1) || fail "$made"
		say "device: config.json made, with a key for one registration"
	fi
	if scripts/device.sh ip "$device" >/dev/null 2>&1; then
		say "device: already up"
	else
		scripts/device.sh up "$device" "$demo/device" "$demo/config.json" --hosts "$hosts_line" --drop-input --strict-out >/dev/null
		say "device: started, in a network namespace and with an engine of its own"
	fi
}

running() {
	local uuid i address waited page
	for i in $(seq 100); do
		uuid=$(sed -n 's/.*"uuid": *"\([0-9a-f]*\)".*/\1/p' "$demo/device/state/identity.json" 2>/dev/null | head -1)
		roadstead device show "${uuid:-none}" >/dev/null 2>&1 || uuid=""
		[ -n "$uuid" ] && break
		sleep 0.2
	done
	[ -n "$uuid" ] || fail "the server does not know the device: its log is .demo/device/log/agent.log; \`make demo-down\` lets you begin anew"
	waited=$(roadstead device wait "$uuid" --running web --running writer --timeout 3m 2>&1) || fail "$waited"
	say "device $uuid: web and writer run"
	address=$(scripts/device.sh ip "$device")
	for i in $(seq 50); do
		page=$(curl -fsS --max-time 5 "http://$address/" 2>/dev/null) && break
		sleep 0.2
	done
	[ -n "${page:-}" ] || fail "the page at http://$address/ does not answer"
	say "page: http://$address/ answers: $(printf '%s' "$page" | sed -n 's/.*<h1>\(.*\)<\/h1>.*/\1/p' | head -1)"
	cat <<END

Everything runs. In another shell:

  . .demo/env                                   both command lines are logged in by this
  roadstead device list
  roadstead device logs ${uuid:0:7} -f
  roadstead device vpn status ${uuid:0:7}         its control channel
  curl http://$address/
  edit examples/hello/web/index.html, then:  roadstead push $fleet examples/hello
  roadstead login --url \$ROADSTEAD_URL --email \$ROADSTEAD_EMAIL --password "\$ROADSTEAD_PASSWORD"
  make demo-down                                stop, and remove every trace
END
}

up() {
	[ "$(id -u)" = 0 ] || fail "run as root: it makes a network namespace and starts a Docker Engine in it"
	mkdir -p "$demo"
	network
	hosts
	server
	environment
	base_image
	fleet_and_release
	virtual_device
	running
}

down() {
	local pid i u
	scripts/device.sh down "$device" >/dev/null 2>&1 || true
	if pid=$(server_pid); then
		kill -TERM "$pid"
		for i in $(seq 150); do
			[ -d "/proc/$pid" ] || break
			sleep 0.1
		done
		[ ! -d "/proc/$pid" ] || kill -KILL "$pid"
	fi
	(
		flock 9
		if grep -F "$marker" /etc/hosts >/dev/null; then unhost; fi
	) 9</run/lock
	ip address delete "$address/32" dev lo 2>/dev/null || true
	rm -rf "$demo"
	# The system users of the roles go too, unless another server on this machine runs as them.
	for u in $(sed -n 's/^\(roadstead-[a-z]*\):.*/\1/p' /etc/passwd); do
		if ! pgrep -u "$u" >/dev/null && ! pgrep -f 'roadsteadd up' >/dev/null; then
			userdel "$u" 2>/dev/null || true
		fi
	done
	say "demo: everything is gone"
}

case ${1:-} in
up) up ;;
down) down ;;
*) fail "usage: scripts/demo.sh up|down" ;;
esac
