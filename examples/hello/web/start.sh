#!/bin/sh
# The page belongs to the release, what the writer adds belongs to the volume: both are served from there.
cp /srv/index.html /data/index.html.new && mv /data/index.html.new /data/index.html
echo "serving /data on port 80"
httpd -f -p 80 -h /data &
trap 'kill $!; exit 0' TERM INT # the first process of a container gets no default for a signal: without this, stopping takes 10 s
wait $!
