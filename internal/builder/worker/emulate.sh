# Runs inside RootlessKit's namespaces, before buildkitd: lets the kernel run programs of other machines there, by emulators.
#   emulate.sh "LINES FOR THE KERNEL" PROGRAM ARGUMENTS...
# The list of emulators (binfmt_misc) belongs to the user namespace, so nothing outside it changes and no privilege is needed; that is
# so since Linux 6.7. Whether it worked is found out by whoever asks buildkitd for its platforms: builds for this machine go on anyway.
lines=$1
shift
if [ -n "$lines" ]; then
	at=/proc/sys/fs/binfmt_misc
	if mount -t binfmt_misc binfmt_misc $at 2>/dev/null; then
		printf '%s\n' "$lines" | while read -r line; do
			printf '%s' "$line" >$at/register || echo "an emulator cannot be registered: $line" >&2
		done
	fi
fi
exec "$@"
