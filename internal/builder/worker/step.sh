#!/bin/sh
# Gives a build step a network (the CNI plugin of our buildkitd): a wire between the step's namespace and the daemon's, where its
# packets are routed by the rules of net.sh. The step is root in its own namespace and can change anything there: it has the other
# end of the wire only.
set -eu
run=/run/roadstead-net
version=$(sed -n 's/.*"cniVersion" *: *"\([0-9.]*\)".*/\1/p' | head -n 1)
: "${version:=0.4.0}"
fail() { printf '{"cniVersion":"%s","code":11,"msg":"%s"}\n' "$version" "$*"; exit 1; }
case $CNI_COMMAND in
VERSION) echo "{\"cniVersion\":\"$version\",\"supportedVersions\":[\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\"]}"; exit 0 ;;
ADD) ;;
DEL) # the wire goes with the namespace
	for owner in "$run"/*/owner; do
		if [ -e "$owner" ] && [ "$(cat "$owner")" = "$CNI_CONTAINERID" ] && [ "${0##*/}" != loopback ]; then
			rm -rf "${owner%/owner}"
		fi
	done
	exit 0 ;;
*) exit 0 ;;
esac

if [ "${0##*/}" = loopback ]; then
	nsenter --net="$CNI_NETNS" ip link set lo up || fail "the loopback interface cannot be raised"
	echo "{\"cniVersion\":\"$version\",\"interfaces\":[{\"name\":\"lo\",\"sandbox\":\"$CNI_NETNS\"}],\"ips\":[{\"version\":\"4\",\"address\":\"127.0.0.1/8\",\"interface\":0}]}"
	exit 0
fi

mkdir -p "$run"
n=110
until mkdir "$run/$n" 2>/dev/null; do
	n=$((n + 1))
	[ $n -lt 250 ] || fail "too many build steps at once"
done
printf %s "$CNI_CONTAINERID" >"$run/$n/owner"
ip link delete "s$n" 2>/dev/null || true # of a step that is gone
{
	ip link add "s$n" type veth peer name "$CNI_IFNAME" netns "$CNI_NETNS"
	ip -batch - <<END
addr add 10.0.2.1 peer 10.0.2.$n dev s$n
link set s$n up
END
	nsenter --net="$CNI_NETNS" ip -batch - <<END
addr add 10.0.2.$n peer 10.0.2.1 dev $CNI_IFNAME
link set $CNI_IFNAME up
route add default via 10.0.2.1
END
} >"$run/$n/log" 2>&1 || { why=$(tr -d '"\\' <"$run/$n/log" | tr '\n' ' '); rm -rf "${run:?}/$n"; fail "the network of a step: $why"; }
echo "{\"cniVersion\":\"$version\",\"interfaces\":[{\"name\":\"$CNI_IFNAME\",\"sandbox\":\"$CNI_NETNS\"}],\"ips\":[{\"version\":\"4\",\"address\":\"10.0.2.$n/32\",\"interface\":0}]}"
