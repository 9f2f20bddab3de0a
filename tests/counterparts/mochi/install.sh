#!/bin/sh
# Builds the broker beside this file with mochi-mqtt into build/counterparts/mochi; needs Go.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$here/../../.." && pwd)/build/counterparts/mochi
made=$(cat "$here/go.mod" "$here/go.sum" "$here/main.go" | cksum)
[ "$(cat "$out/made" 2>/dev/null)" = "$made" ] && exit 0
mkdir -p "$out"
(cd "$here" && go build -o "$out/mochi" .)
echo "$made" > "$out/made"
