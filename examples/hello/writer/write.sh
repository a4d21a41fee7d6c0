#!/bin/sh
trap 'exit 0' TERM INT
while :; do
	now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
	echo "$now" >/data/time.txt.new && mv /data/time.txt.new /data/time.txt
	echo "wrote $now"
	sleep 1 &
	wait $!
done
