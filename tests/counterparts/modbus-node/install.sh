#!/bin/sh
# Installs modbus-serial and jsmodbus into build/counterparts/modbus-node, from the lock beside this file; needs node and npm.
set -eu

install_modbus_node() {
    here=$(cd "$(dirname "$0")" && pwd)
    out=$(cd "$here/../../.." && pwd)/build/counterparts/modbus-node
    cmp -s "$here/package-lock.json" "$out/installed.lock" && return 0
    mkdir -p "$out"
    cp "$here/package.json" "$here/package-lock.json" "$here/.npmrc" "$out/"
    (cd "$out" && npm ci --omit=dev --ignore-scripts --loglevel=error >&2)
    cp "$here/package-lock.json" "$out/installed.lock"
}

install_modbus_node
