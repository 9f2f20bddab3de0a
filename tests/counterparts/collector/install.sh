#!/bin/sh
# Builds the receiver beside this file with the OpenTelemetry Collector's modules into build/counterparts/collector; needs Go.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$here/../../.." && pwd)/build/counterparts/collector
made=$(cat "$here/go.mod" "$here/go.sum" "$here/main.go" | cksum)
[ "$(cat "$out/made" 2>/dev/null)" = "$made" ] && exit 0
mkdir -p "$out"
(cd "$here" && go build -o "$out/collector" .)
echo "$made" > "$out/made"
