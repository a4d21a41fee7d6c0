#!/bin/sh
# The page belongs to the release, what the writer adds belongs to the volume: both are served from there.
cp /srv/index.html /data/index.html.new && mv /data/index.html.new /data/index.html
echo "serving /data on port 80"
exec httpd -f -p 80 -h /data
