# Runs inside RootlessKit's namespaces, before buildkitd: sets what builds may reach, and starts buildkitd only if every rule holds.
#   net.sh "ALLOWED NETWORKS" "ADDRESSES OF THE HOST" "PRIVATE NETWORKS" PROGRAM ARGUMENTS...
# Every step has a network namespace of its own (see step.sh) whose packets are routed here, where no step can change a rule.
# buildkitd's own connections, for FROM and ADD, follow the same rules.
set -eu
say() { echo "the network rules of builds cannot be set: $*" >&2; exit 1; }
allowed=$1 host=$2 private=$3
shift 3

sys() { { echo "$2" >"/proc/sys/net/$1"; } 2>/dev/null || say "/proc/sys/net/$1 cannot be written"; }
sys ipv4/ip_forward 1
for name in all default tap0; do
	sys ipv4/conf/$name/rp_filter 0 # it would ask the rules below for the way back, which are about ways out
done
sys ipv4/conf/tap0/proxy_arp 1 # slirp4netns finds the steps' addresses here
sys ipv4/neigh/tap0/proxy_delay 0
sys ipv4/icmp_ratelimit 0 # a refusal is told at once
sys ipv4/conf/all/send_redirects 0
sys ipv4/conf/all/accept_redirects 0
if [ -e /proc/sys/net/ipv6 ]; then # there is no way out by IPv6, and none is wanted
	sys ipv6/conf/all/disable_ipv6 1
	sys ipv6/conf/default/disable_ipv6 1
fi

rule() { ip -4 rule add "$@" || say "ip rule add $*: does this kernel have policy routing?"; }
rule pref 10 iif tap0 lookup main                        # answers
rule pref 11 iif lo ipproto icmp to 10.0.2.0/24 lookup main # refusals
for proto in udp tcp; do
	rule pref 12 to 10.0.2.3 ipproto $proto dport 53 lookup main # names
done
rule pref 13 to 10.0.2.0/24 prohibit
for net in $allowed; do # the operator allowed this address of the host
	case $net in */32) rule pref 14 to "$net" lookup main ;; esac
done
for address in $host; do
	rule pref 15 to "$address" prohibit
done
for net in $allowed; do
	rule pref 16 to "$net" lookup main
done
for net in $private; do
	rule pref 17 to "$net" prohibit
done

# What does not hold is found now, not by an attacker.
for net in $private; do
	address=${net%/*}
	case " $allowed " in *" $net "*) continue ;; esac
	[ "${address%%.*}" -ge 127 ] && [ "${address%%.*}" -lt 128 ] && continue # of this namespace itself
	if ip -4 route get "${address%.*}.$((${address##*.} + 1))" >/dev/null 2>&1; then
		say "$net can still be reached"
	fi
done
exec "$@"
