#!/bin/bash
# A virtual device: a network namespace with one veth pair to the host, namespaces of its own for mounts, processes and its
# host name, a Docker Engine of its own, and roadstead-agent on top. It needs root and the packages of Debian 12, no systemd,
# and never touches a Docker Engine that the machine runs already.
set -euo pipefail

usage() {
	cat <<'TEXT'
usage: device.sh up NAME DIR CONFIG [options]   make the device, or start it again on its old DIR
       device.sh down NAME                      end it: processes, mounts, interfaces, namespaces; DIR stays
       device.sh exec NAME COMMAND...           run a command on the device
       device.sh list                           the devices that run
       device.sh ip NAME                        the device's address

options of up:
  --host-ip IP          the host's end of the cable; the device gets the next address (default: the next free pair of 10.213.0.0/16)
  --hosts "IP NAME..."  a line for the device's /etc/hosts; may be repeated; HOST stands for the host's end of the cable
  --agent FILE          the agent (default: bin/roadstead-agent of this checkout); "none" starts only the engine
  --drop-input          the device refuses every connection from outside, as behind a strict firewall
  --strict-out          and nothing leaves it but 53/udp, 123/udp and 443/tcp, from itself or from its containers
  --env NAME=VALUE      an environment variable for the agent; may be repeated

CONFIG is copied to DIR/boot/config.json unless the device has one already; the agent works on that copy. Inside the device
/etc is DIR/etc, /run is DIR/run, and the engine keeps its data in DIR/docker. Logs are in DIR/log; power.log tells of reboots, which
end and start the engine and the agent, and of shutdowns, after which the device is off. After `down`, removing DIR leaves nothing
behind.

example:
  device.sh up alice /tmp/alice config.json --hosts "HOST api.roadstead.test registry2.roadstead.test"
  device.sh exec alice docker ps
TEXT
}

readonly REGISTER=/run/roadstead-devices # one directory for each device that is up: dir, pid, netns, cable, cgroup
readonly HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

die() {
	echo "device.sh: $*" >&2
	exit 1
}

# need COMMAND PACKAGE: install the Debian package unless the command is there. Services must not start by themselves: the
# engine of the device is the only one we want.
need() {
	command -v "$1" >/dev/null && return
	command -v apt-get >/dev/null || die "$1 is missing, and so is apt-get to install $2"
	local policy=""
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		policy=/usr/sbin/policy-rc.d
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
	fi
	echo "device.sh: installing $2" >&2
	if ! DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null; then
		apt-get update -qq
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null
	fi
	[ -z "$policy" ] || rm -f "$policy"
	command -v "$1" >/dev/null || die "$2 is installed, but $1 is still missing"
}

# started PID: when the process started, in clock ticks since boot; with the pid it names one process for ever.
started() {
	local stat
	read -r stat 2>/dev/null <"/proc/$1/stat" || return 1
	stat=${stat##*) }
	# shellcheck disable=SC2086
	set -- $stat
	echo "${20}"
}

# alive NAME: the device's first process is running, and is the one we started.
alive() {
	local pid start
	read -r pid start 2>/dev/null <"$REGISTER/$1/pid" || return 1
	[ "$(started "$pid")" = "$start" ]
}

check_name() {
	[[ $1 =~ ^[a-z0-9][a-z0-9-]{0,30}$ ]] || die "a device's name is lower-case letters, digits and dashes, not \"$1\""
}

# cable NAME: the name of the host's end; an interface name has 15 characters at most.
cable() {
	local sum
	sum=$(printf %s "$1" | sha256sum)
	echo "rsd${sum:0:10}"
}

# free_pair: the host's end of a pair of addresses that no interface uses.
free_pair() {
	local used a b
	used=$(ip -o -4 address show | awk '{print $4 "/"}')
	for a in $(seq 0 255); do
		for b in $(seq 1 4 253); do
			grep -qF "10.213.$a.$b/" <<<"$used" || { echo "10.213.$a.$b"; return; }
		done
	done
	die "no free address"
}

next_address() {
	local a b c d
	IFS=. read -r a b c d <<<"$1"
	[ "${d:-255}" -lt 254 ] || die "--host-ip $1: the address after it must be free for the device"
	echo "$a.$b.$c.$((d + 1))"
}

# prepare_dir: what the device finds on its disk. Nothing here is undone by `down`.
prepare_dir() {
	local dir=$1 config=$2 name=$3 host_ip=$4
	mkdir -p "$dir"/{boot,state,docker,run,log}
	chmod 700 "$dir" "$dir/boot" "$dir/state"
	if [ ! -d "$dir/etc" ]; then # a copy, for a mount over one file of /etc ends when the host replaces that file
		rm -rf "$dir/etc.new"
		cp -a /etc "$dir/etc.new"
		rm -rf "$dir"/etc.new/{docker,ssh,shadow,shadow-,gshadow,gshadow-}
		mkdir "$dir/etc.new/docker"
		mv "$dir/etc.new" "$dir/etc"
	fi
	[ -e "$dir/boot/config.json" ] || install -m 600 "$config" "$dir/boot/config.json"
	{
		echo "127.0.0.1 localhost $name"
		printf '%s\n' "${HOSTS[@]/#HOST /$host_ip }"
	} >"$dir/etc/hosts"
	printf '%s\n' "${ENVIRONMENT[@]}" >"$dir/etc/agent.env"
}

up() {
	local name=$1 dir=$2 config=$3 host_ip="" agent="$HERE/../bin/roadstead-agent" drop="" strict=""
	HOSTS=() ENVIRONMENT=()
	shift 3
	while [ $# -gt 0 ]; do
		case $1 in
		--drop-input) drop=1; shift; continue ;;
		--strict-out) strict=1; shift; continue ;;
		esac
		[ $# -ge 2 ] || die "$1 needs a value"
		case $1 in
		--host-ip) host_ip=$2 ;;
		--hosts) HOSTS+=("$2") ;;
		--agent) agent=$2 ;;
		--env) ENVIRONMENT+=("$2") ;;
		*) die "unknown option $1" ;;
		esac
		shift 2
	done
	check_name "$name"
	[ "$(id -u)" = 0 ] || die "needs root"
	[ -e "$config" ] || die "$config does not exist"
	[ "$agent" = none ] || [ -x "$agent" ] || die "$agent does not exist; run make build"
	if alive "$name" && engine_answers "$(cat "$REGISTER/$name/dir")"; then
		echo "device $name is up: $(ip_of "$name")"
		return
	fi # one that just lost its power may still be dying
	[ ! -d "$REGISTER/$name" ] || down "$name" >/dev/null
	need ip iproute2
	need iptables iptables
	need dockerd docker.io
	need openvpn openvpn
	need nft nftables
	if [ ! -e /dev/net/tun ]; then # as udev makes it
		mkdir -p /dev/net
		mknod /dev/net/tun c 10 200
		chmod 666 /dev/net/tun
	fi
	mkdir -p "$REGISTER" "$dir"
	dir=$(cd "$dir" && pwd)
	[ "$agent" = none ] || agent=$(readlink -f "$agent")

	exec 9</run
	flock 9 # two devices that start at once must not choose the same address
	local me=$REGISTER/$name net=rsd-$name end
	mkdir -p "$me"
	echo "$dir" >"$me/dir"
	trap 'down "'"$name"'" >&2' EXIT # until the device is up: an error leaves nothing behind
	end=$(cable "$name")
	[ -n "$host_ip" ] || host_ip=$(free_pair)
	local device_ip
	device_ip=$(next_address "$host_ip")
	ip netns add "$net"
	ip link add "$end" type veth peer name eth0 netns "$net"
	ip address add "$host_ip" peer "$device_ip" dev "$end"
	ip link set "$end" up
	ip -n "$net" address add "$device_ip" peer "$host_ip" dev eth0
	ip -n "$net" link set lo up
	ip -n "$net" link set eth0 up
	ip -n "$net" route add default via "$host_ip"
	echo "$device_ip" >"$me/ip"
	flock -u 9
	if [ -n "$drop" ]; then
		nsenter --net="/run/netns/$net" sh -c 'iptables -A INPUT -i lo -j ACCEPT &&
			iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT && iptables -P INPUT DROP'
	fi
	if [ -n "$strict" ]; then # behind everything that the engine does with its containers' packets
		nsenter --net="/run/netns/$net" sh -c 'iptables -t mangle -A POSTROUTING -o eth0 -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT &&
			iptables -t mangle -A POSTROUTING -o eth0 -p udp -m multiport --dports 53,123 -j ACCEPT &&
			iptables -t mangle -A POSTROUTING -o eth0 -p tcp --dport 443 -j ACCEPT && iptables -t mangle -A POSTROUTING -o eth0 -j DROP &&
			if [ -e /proc/net/if_inet6 ]; then ip6tables -t mangle -A POSTROUTING -o eth0 -p ipv6-icmp -j ACCEPT; ip6tables -t mangle -A POSTROUTING -o eth0 -j DROP; fi'
	fi
	prepare_dir "$dir" "$config" "$name" "$host_ip"
	rm -f "$dir/run/init.pid" "$dir/run/docker.pid" "$dir/run/agent.pid"
	DEVICE_NAME=$name DEVICE_DIR=$dir DEVICE_AGENT=$agent setsid nsenter --net="/run/netns/$net" \
		unshare --mount --propagation private --pid --fork --uts --ipc --kill-child "$HERE/device.sh" __init \
		</dev/null >>"$dir/log/init.log" 2>&1 9>&- &
	local pid
	for _ in $(seq 300); do
		[ ! -s "$dir/run/init.pid" ] || break
		sleep 0.05
	done
	read -r pid <"$dir/run/init.pid" || die "the device did not start, see $dir/log/init.log"
	echo "$pid $(started "$pid")" >"$me/pid"
	for _ in $(seq 1200); do
		if [ -S "$dir/run/docker.sock" ] && engine_answers "$dir"; then
			trap - EXIT
			echo "device $name is up: $device_ip"
			return
		fi
		alive "$name" || break
		sleep 0.05
	done
	tail -n 20 "$dir/log/dockerd.log" >&2 || true
	die "the engine of $name does not answer, see $dir/log/dockerd.log"
}

# engine_answers DIR: asked from inside, because a socket's name as seen from here may be too long.
engine_answers() {
	local pid
	read -r pid <"$1/run/init.pid"
	nsenter --target "$pid" --mount --net -- docker --host unix:///run/docker.sock version >/dev/null 2>&1
}

# mount_cgroups: give the engine the controllers where nobody has mounted them, as on a machine without systemd.
mount_cgroups() {
	grep -q ' /sys/fs/cgroup' /proc/self/mounts && return
	mount -t cgroup2 none /sys/fs/cgroup && return
	mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
	local name enabled
	while read -r name _ _ enabled; do
		[ "$enabled" = 1 ] || continue
		mkdir -p "/sys/fs/cgroup/$name"
		mount -t cgroup -o "$name" cgroup "/sys/fs/cgroup/$name" || rmdir "/sys/fs/cgroup/$name"
	done < <(grep -v '^#' /proc/cgroups)
}

# init is the first process of the device. It starts the engine and the agent and starts them again when they die, as the
# init system of a real device does. When it ends, the kernel kills everything else on the device.
init() {
	local pid fd dir=$DEVICE_DIR agent=$DEVICE_AGENT
	for fd in /proc/self/fd/*; do # a device that outlives who started it keeps none of its files, and so none of its locks
		fd=${fd##*/}
		[ "$fd" -le 2 ] || eval "exec $fd>&-"
	done
	read -r pid _ </proc/self/stat # /proc is still the host's: this is the pid that `down` can use
	trap 'touch /run/stopping; [ ! -s /run/docker.pid ] || kill -TERM "$(cat /run/docker.pid)" 2>/dev/null' TERM
	mount -t proc proc /proc
	mount_cgroups
	hostname "$DEVICE_NAME" 2>/dev/null || true
	mount --bind "$dir/etc" /etc
	find "$dir/run" -mindepth 1 -delete
	mount --bind "$dir/run" /run
	mkdir -p /run/opt /run/lock
	mount --bind /run/opt /opt # containerd would make /opt/containerd on the host
	cd /
	unset DEVICE_NAME DEVICE_DIR DEVICE_AGENT DOCKER_HOST DOCKER_CONFIG
	mkdir -p /etc/roadstead
	cat >/run/power <<TEXT
#!/bin/sh
# What reboot and poweroff are on this device: neither may touch the machine that it is on.
echo "\$(date -u +%FT%TZ) \$1" >>"$dir/log/power.log"
case \$1 in
reboot) find /run/roadstead/services -name '*updates.lock' -delete; rm -f /run/roadstead/boot ;;
shutdown) touch /run/stopping ;;
*) exit 2 ;;
esac
kill -TERM "\$(cat /run/docker.pid)"
kill -TERM "\$(cat /run/agent.pid)"
TEXT
	chmod 700 /run/power
	echo "$pid" >/run/init.pid.new
	mv /run/init.pid.new /run/init.pid

	engine_loop "$dir" &
	local engine=$!
	[ "$agent" = none ] || agent_loop "$dir" "$agent" &
	while kill -0 "$engine" 2>/dev/null; do
		wait "$engine" || true
	done
}

engine_loop() {
	while [ ! -e /run/stopping ]; do
		rm -f /run/docker.pid
		dockerd --host unix:///run/docker.sock --data-root "$1/docker" --exec-root /run/docker --pidfile /run/docker.pid \
			--exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/rsd-$(hostname)" --userland-proxy=false \
			--log-opt max-size=10m --log-opt max-file=2 >>"$1/log/dockerd.log" 2>&1 || true
		[ -e /run/stopping ] || sleep 1
	done
}

agent_loop() {
	local variables=()
	mapfile -t variables < <(grep . "$1/etc/agent.env" || true)
	for _ in $(seq 200); do # the engine first, as on a real device; the agent would wait for it, too
		[ ! -S /run/docker.sock ] || break
		sleep 0.05
	done
	while [ ! -e /run/stopping ]; do
		env "${variables[@]}" "$2" --config "$1/boot/config.json" --state "$1/state" --power-command /run/power >>"$1/log/agent.log" 2>&1 &
		echo $! >/run/agent.pid
		wait $! || true
		[ -e /run/stopping ] || sleep 1
	done
}

down() {
	local name=$1 me=$REGISTER/$1 pid start
	check_name "$name"
	if [ ! -d "$me" ]; then
		echo "device $name is not up"
		return
	fi
	if alive "$name"; then
		read -r pid start <"$me/pid"
		kill -TERM "$pid" # the engine stops its containers, then init ends; who takes longer loses power
		for _ in $(seq 40); do
			alive "$name" || break
			sleep 0.05
		done
		if alive "$name"; then
			kill -KILL "$pid" # and with it every process of its namespace
			for _ in $(seq 200); do
				alive "$name" || break
				sleep 0.05
			done
		fi
	fi
	ip link delete "$(cable "$name")" 2>/dev/null || true
	ip netns delete "rsd-$name" 2>/dev/null || true
	find /sys/fs/cgroup -depth -type d -path "*/rsd-$name*" -exec rmdir {} + 2>/dev/null || true
	rm -rf "$me"
	rmdir --ignore-fail-on-non-empty "$REGISTER" 2>/dev/null || true
	echo "device $name is down"
}

ip_of() { cat "$REGISTER/$1/ip"; }

run_in() {
	local name=$1 pid
	shift
	alive "$name" || die "device $name is not up"
	read -r pid _ <"$REGISTER/$name/pid"
	exec nsenter --target "$pid" --mount --uts --ipc --net --pid --wdns=/ -- "$@"
}

case ${1:-} in
up) [ $# -ge 4 ] || { usage >&2; exit 2; }; shift; up "$@" ;;
down) [ $# -eq 2 ] || { usage >&2; exit 2; }; down "$2" ;;
exec) [ $# -ge 3 ] || { usage >&2; exit 2; }; shift; run_in "$@" ;;
ip) [ $# -eq 2 ] || { usage >&2; exit 2; }; alive "$2" || die "device $2 is not up"; ip_of "$2" ;;
list)
	for d in "$REGISTER"/*/; do
		[ -d "$d" ] || continue
		n=$(basename "$d")
		alive "$n" && echo "$n $(ip_of "$n") $(cat "$d/dir")" || echo "$n dead $(cat "$d/dir")"
	done
	;;
__init) init ;;
help | --help | -h) usage ;;
*) usage >&2; exit 2 ;;
esac
