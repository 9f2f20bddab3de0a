#!/bin/sh
# Installs modbus-serial and jsmodbus into build/counterparts/modbus-node, from the lock beside this file; needs node and npm.
exec sh "$(dirname "$0")/../npm.sh" "$(dirname "$0")"
