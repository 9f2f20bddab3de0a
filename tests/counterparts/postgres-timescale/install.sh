#!/bin/sh
# Installs a PostgreSQL with the extension timescaledb into build/counterparts/postgres-timescale, from the lock beside this
# file; needs node and npm. No package of Debian has the extension: this one is compiled to WebAssembly, takes one client and
# no COPY, which is enough to check statements.
set -eu

install_timescale() {
    here=$(cd "$(dirname "$0")" && pwd)
    out=$(cd "$here/../../.." && pwd)/build/counterparts/postgres-timescale
    cmp -s "$here/package-lock.json" "$out/installed.lock" && return 0
    mkdir -p "$out"
    cp "$here/package.json" "$here/package-lock.json" "$here/.npmrc" "$out/"
    (cd "$out" && npm ci --omit=dev --ignore-scripts --loglevel=error >&2)
    cp "$here/package-lock.json" "$out/installed.lock"
}

install_timescale
