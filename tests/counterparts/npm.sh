#!/bin/sh
# Installs what the lock in folder $1, one of those beside this file, names into build/counterparts; needs node and npm.
set -eu
here=$(cd "$1" && pwd)
out=$(cd "$here/../../.." && pwd)/build/counterparts/$(basename "$here")
cmp -s "$here/package-lock.json" "$out/installed.lock" && exit 0
mkdir -p "$out"
cp "$here/package.json" "$here/package-lock.json" "$here/.npmrc" "$out/"
(cd "$out" && npm ci --omit=dev --ignore-scripts --loglevel=error >&2)
cp "$here/package-lock.json" "$out/installed.lock"
