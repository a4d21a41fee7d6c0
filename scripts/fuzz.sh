#!/usr/bin/env bash
# Fuzzes the parsers of what comes from outside to the API, one after the other, and says how many inputs each was given and which query to
# the resources took longest. Ends with an error at the first input that crashes one, leaks a row, or takes the database over 100 ms.
#
#   scripts/fuzz.sh [TIME]            of each, 5m unless said otherwise
#   scripts/fuzz.sh TIME REGEXP       those whose name matches
#
# With ROADSTEAD_TEST_SQL (see scripts/test.sh) the queries go to PostgreSQL.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-5m}
only=${2:-.}
slow=$(mktemp -d)
log=$(mktemp)
trap 'rm -rf "$slow" "$log"' EXIT
export ROADSTEAD_FUZZ_SLOWEST=$slow

# The dialect alone and down to the database; reports of devices, new and old; configuration: what is asked of one, a registration, a
# device's own file, and contracts of device types.
while read -r package name; do
	[[ $name =~ $only ]] || continue
	began=$(date +%s)
	if ! go test "./$package" -run '^$' -fuzz "^$name\$" -fuzztime "$time" -parallel 1 >"$log" 2>&1 </dev/null; then
		cat "$log" >&2
		exit 1
	fi
	printf '%-16s %-28s %9s inputs, %4d s, no failure\n' "$name" "$package" \
		"$(grep -oE 'execs: [0-9]+' "$log" | tail -1 | cut -d' ' -f2)" $(($(date +%s) - began))
done <<'END'
internal/odata/syntax FuzzParse
internal/odata FuzzRequest
internal/device FuzzReport
internal/device/report FuzzReportV2
internal/apiserver FuzzAnswers
internal/apiserver FuzzRegister
internal/agent/identity FuzzParseConfig
internal/fleet FuzzContract
END
if compgen -G "$slow/*" >/dev/null; then
	printf 'the slowest query: %s\n' "$(sort -rn "$slow"/* | head -1 | sed 's/^0*\([0-9]\)/\1/' | cut -c1-400)"
fi
