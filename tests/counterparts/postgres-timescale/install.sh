#!/bin/sh
# Installs a PostgreSQL with the extension timescaledb into build/counterparts/postgres-timescale, from the lock beside this
# file; needs node and npm. No package of Debian has the extension: this one is compiled to WebAssembly, takes one client and
# no COPY, which is enough to check statements.
exec sh "$(dirname "$0")/../npm.sh" "$(dirname "$0")"
