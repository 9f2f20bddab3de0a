#!/bin/sh
# Builds the fake of Google Cloud Pub/Sub beside this file into build/counterparts/pubsub; needs go. The sums of what it is
# made from are in go.sum.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$here/../../.." && pwd)/build/counterparts/pubsub

built_from() { cat "$here/install.sh" "$here/main.go" "$here/go.mod" "$here/go.sum" | cksum; }

[ "$(built_from)" = "$(cat "$out/built_from" 2>/dev/null)" ] && exit 0
mkdir -p "$out"
(cd "$here" && go build -mod=readonly -ldflags '-s -w' -o "$out/server.new" .) >"$out/log" 2>&1 || { tail -n 40 "$out/log" >&2; exit 1; }
mv "$out/server.new" "$out/server"
built_from >"$out/built_from"
