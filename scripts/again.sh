#!/usr/bin/env bash
# Runs a command, and once more a little later when it fails: a package registry may not answer just once.
#
#   scripts/again.sh COMMAND...
"$@" && exit
echo "again.sh: $1 failed; once more" >&2
sleep 5
exec "$@"
