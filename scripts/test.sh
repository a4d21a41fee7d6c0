#!/usr/bin/env bash
# Runs every test, on real parts. `make test` has built the programs, buildkitd and the base image before.
#
#   scripts/test.sh            everything
#   scripts/test.sh unit       packages without the end-to-end suite, and the policy
#   scripts/test.sh policy     the policy alone
#   scripts/test.sh postgres [-run REGEXP]   packages that touch the database, on a PostgreSQL server of their own
#   scripts/test.sh e2e [-run REGEXP]
set -euo pipefail
cd "$(dirname "$0")/.."
top=$PWD
what=${1:-all}
[ $# -gt 0 ] && shift
export ROADSTEAD_BIN=$top/bin
export ROADSTEAD_BUILDKITD=$top/bin/buildkitd
export ROADSTEAD_BASE_BUSYBOX=$top/.cache/base/busybox.tar
export ROADSTEAD_OCI_CONFORMANCE=$top/bin/oci-conformance
export ROADSTEAD_VERSITYGW=$top/bin/versitygw
export ROADSTEAD_DOCKER_TESTS=1

start=$(date +%s)
# proven runs `go test -v` and shows what matters of its output: `proven REGEXP COMMAND…` prints the lines that match as they
# come, and everything when the tests fail. A test that skips proves nothing, so it fails the run: everything that a test may
# need is installed and built by now.
log=$(mktemp)
trap 'beside_stop; postgres_stop; rm -f "$log" "$log".*' EXIT
proven() {
	local show=$1 code
	shift
	set +e # the status that counts is that of the tests, not of what shows them
	"$@" 2>&1 | tee "$log" | grep --line-buffered -E "$show"
	code=${PIPESTATUS[0]}
	set -e
	if [ "$code" != 0 ]; then
		grep -v -E '^=== (RUN|PAUSE|CONT|NAME)|^ *--- PASS' "$log" >&2
		again "$@" || return "$code"
	fi
	if grep -B 1 -E '^ *--- SKIP' "$log" >&2; then
		echo "test: these tests were skipped; here nothing may be" >&2
		return 1
	fi
}
# again runs the tests that failed in $log once more, alone: `again COMMAND…`. Real engines, browsers and networks on two busy processors now
# and then take longer than any test foresees; what is broken fails again. It says by name what passed only then: each is a test to mend.
# A race, a panic, a package that did not build or ran out of time, and more than three tests are no accident, and are not tried again.
again() {
	local race=() failed package tests
	if grep -q -E 'DATA RACE|^panic: |\[(build|setup) failed\]' "$log"; then return 1; fi
	failed=$(awk '/^--- FAIL: /{tests = tests sep $3; sep = "|"; n++} /^(FAIL|ok) *\t/{if (tests != "") print $2, tests; else if ($1 == "FAIL") broken = 1; tests = sep = ""}
		END{if (broken || n == 0 || n > 3) print "none"}' "$log")
	if [ -z "$failed" ] || grep -q '^none$' <<<"$failed"; then return 1; fi
	[[ " $* " == *' -race '* ]] && race=(-race)
	while read -r package tests; do
		echo "test: $tests of $package failed; once more, alone" >&2
		go test "${race[@]}" -count=1 -v -timeout 20m -run "^($tests)\$" "$package" >"$log.again" 2>&1 </dev/null || { cat "$log.again" >&2; return 1; }
		echo "test: MEND: $tests of $package passed only when tried again" | tee -a "$log.mend" >&2
	done <<<"$failed"
}
# beside_end waits for what runs beside the end-to-end suite; beside_stop ends it.
beside=
beside_end() {
	local code=0
	wait "$beside" || code=$?
	beside=
	cat "$log.beside"
	return "$code"
}
beside_stop() {
	[ -n "$beside" ] || return 0
	kill -- "-$beside" 2>/dev/null || true
	wait "$beside" || true
	beside=
}
# postgres_start starts a PostgreSQL server for this run: its own files, a socket in them, nothing that waits for a disk.
# Tests take its address as the sign to keep their data there.
postgres_start() {
	local bin as=()
	bin=$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -1)
	[ -n "$bin" ] || { echo "test: PostgreSQL is not installed; scripts/install.sh test does it" >&2; return 1; }
	postgres_bin=${bin%/initdb}
	# In memory where there is room: most of the time of these tests is that of making and dropping databases.
	local where=${TMPDIR:-/tmp}
	[ "$(df --output=avail -k /dev/shm 2>/dev/null | tail -1)" -gt 4194304 ] 2>/dev/null && where=/dev/shm
	postgres_dir=$(mktemp -d "$where/rspg.XXXXXX")
	if [ "$(id -u)" = 0 ]; then
		as=(setpriv --reuid postgres --regid postgres --init-groups)
		chown postgres: "$postgres_dir"
	fi
	postgres_as=("${as[@]}")
	chmod 755 "$postgres_dir" # the roles' users reach the socket, too
	{
		(cd "$postgres_dir" && "${as[@]}" "$postgres_bin/initdb" -D data -U postgres -A trust -E UTF8 --locale=C --no-sync) &&
			(cd "$postgres_dir" && "${as[@]}" "$postgres_bin/pg_ctl" -D data -l server.log -w start -o "-k $postgres_dir -c listen_addresses= \
				-c max_connections=500 -c shared_buffers=128MB -c fsync=off -c synchronous_commit=off -c full_page_writes=off -c dynamic_shared_memory_type=mmap")
	} >"$postgres_dir/out" 2>&1 || { cat "$postgres_dir/out" >&2; return 1; }
	export ROADSTEAD_TEST_SQL="postgres://postgres@/postgres?host=$postgres_dir"
}
postgres_stop() {
	unset ROADSTEAD_TEST_SQL
	[ -n "${postgres_dir:-}" ] || return 0
	(cd "$postgres_dir" && "${postgres_as[@]}" "$postgres_bin/pg_ctl" -D data -m immediate -w stop) >/dev/null 2>&1 || true
	rm -rf "$postgres_dir"
	postgres_dir=
}
section() { printf '\n== %s (%ds)\n' "$*" "$(($(date +%s) - start))"; }

# What tries thousands of requests one after the other runs by itself: nothing in it can race.
policy='^(TestPolicyMatrix|TestPolicyOfColumns|TestMutantsOfThePolicyAreCaught|TestEveryRouteWithEveryCredential|TestAKeyDoesWhatIsSaidOfIt|TestOddQuestions|TestCorpus|TestQueriesOfTheCLI'
policy+='|TestNoRouteReachesAnotherTenant|TestEveryResourceIsAuditedWhereItBelongs|TestEveryResourceIsInAPolicyTable|TestHostileInputOfDevices|TestWhatADeviceWritesOfItself)$'

if [ "$what" = all ] || [ "$what" = unit ]; then
	section "repository"
	unformatted=$(git ls-files '*.go' | xargs -r gofmt -l)
	[ -z "$unformatted" ] || { echo "not gofmt-ed: $unformatted" >&2; exit 1; }
	go vet ./...
	CGO_ENABLED=1 go vet ./internal/db/...
	go test -count=1 ./internal/repotest
	section "packages, with the race detector"
	# Three packages at a time on two processors: many a test waits more than it works.
	# shellcheck disable=SC2046
	CGO_ENABLED=1 proven '^(ok|FAIL)' go test -race -v -p 3 -timeout 25m -skip "$policy" $(go list ./... | grep -v -e /internal/fleettest -e /internal/repotest -e /bench)
fi
# The end-to-end suite mostly waits; what only computes runs beside it, and gives way to it.
if [ "$what" = all ]; then
	set -m # a process group of its own, to be ended as one
	(nice -n 10 scripts/test.sh policy && nice -n 10 scripts/test.sh postgres) </dev/null >"$log.beside" 2>&1 &
	beside=$!
	set +m
fi
if [ "$what" = unit ] || [ "$what" = policy ]; then
	section "the policy: everybody against everything, and with each rule broken; and what else asks one thing after the other"
	proven '^(ok|FAIL)|mutants' go test -count=1 -v -timeout 20m -run "$policy" ./internal/apiserver
fi
if [ "$what" = postgres ]; then
	section "the packages that touch the database, on PostgreSQL"
	postgres_start
	mapfile -t packages < <(go list -f '{{.ImportPath}} {{join .TestImports " "}} {{join .XTestImports " "}}' ./internal/... |
		grep -v /internal/fleettest | grep -E '/internal/(db/dbtest|domaintest|release/releasetest)' | cut -d' ' -f1)
	[ "${#packages[@]}" -ge 8 ] || { echo "test: only ${packages[*]} seem to touch the database" >&2; exit 1; }
	# The mutants of the policy run on copies of a SQLite file whatever the server: once is enough.
	proven '^(ok|FAIL)' go test -count=1 -v -timeout 20m -skip '^TestMutantsOfThePolicyAreCaught$' "$@" "${packages[@]}"
	postgres_stop
fi
if [ "$what" = all ] || [ "$what" = e2e ]; then
	section "the real balena CLI and SDK"
	ROADSTEAD_BALENA_CLI=$(scripts/balena-cli.sh)
	ROADSTEAD_BALENA_SDK=$(scripts/balena-sdk.sh)
	export ROADSTEAD_BALENA_CLI ROADSTEAD_BALENA_SDK
	section "a browser and a sign-in provider"
	ROADSTEAD_BROWSER=$(scripts/browser.sh)
	ROADSTEAD_OIDC_PROVIDER=$(scripts/oidc-provider.sh)
	export ROADSTEAD_BROWSER ROADSTEAD_OIDC_PROVIDER
	section "kernels for virtual machines"
	ROADSTEAD_KERNEL=$(scripts/kernel.sh)
	ROADSTEAD_KERNEL_HID=$(scripts/kernel.sh hid)
	export ROADSTEAD_KERNEL ROADSTEAD_KERNEL_HID
	section "end to end: real server, real engine, real device"
	shown='^(ok|FAIL)|^ *(---|[a-z]+_test.go:)'
	# One after the other: virtual devices bring addresses of this machine up and down, and a browser drops what it is loading then.
	proven "$shown" go test -count=1 -p 1 -timeout 30m -v "$@" ./internal/fleettest/...
	if [ $# = 0 ]; then
		section "end to end, the main job and the SDK on PostgreSQL"
		postgres_start
		proven "$shown" go test -count=1 -timeout 30m -v -run '^(TestMainJob|TestBalenaSDK|TestSupervisorRequests)$' ./internal/fleettest/e2e
		postgres_stop
	fi
fi
if [ -n "$beside" ]; then
	section "beside it: the policy, and the packages that touch the database on PostgreSQL"
	beside_end
fi
[ ! -s "$log.mend" ] || cat "$log.mend" >&2
section "done"
