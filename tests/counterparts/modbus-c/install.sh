#!/bin/sh
# Builds the libmodbus counterpart into build/counterparts/modbus-c/server; installs libmodbus-dev where it is missing.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$here/../../.." && pwd)/build/counterparts/modbus-c
[ "$out/server" -nt "$here/server.c" ] && exit 0
if ! pkg-config --exists libmodbus 2>/dev/null && [ ! -e /usr/include/modbus/modbus.h ]; then
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc libc6-dev libmodbus-dev >&2
fi
mkdir -p "$out"
cc -O2 -Wall -Wextra -I/usr/include/modbus "$here/server.c" -o "$out/server.new" -lmodbus
mv "$out/server.new" "$out/server"
