#!/bin/sh
# Installs sparkplug-client into build/counterparts/sparkplug, from the lock beside this file; needs node and npm.
set -eu

install_sparkplug() {
    here=$(cd "$(dirname "$0")" && pwd)
    out=$(cd "$here/../../.." && pwd)/build/counterparts/sparkplug
    cmp -s "$here/package-lock.json" "$out/installed.lock" && return 0
    mkdir -p "$out"
    cp "$here/package.json" "$here/package-lock.json" "$here/.npmrc" "$out/"
    (cd "$out" && npm ci --omit=dev --ignore-scripts --loglevel=error >&2)
    cp "$here/package-lock.json" "$out/installed.lock"
}

install_sparkplug
