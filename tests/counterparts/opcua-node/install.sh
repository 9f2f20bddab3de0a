#!/bin/sh
# Installs node-opcua into build/counterparts/opcua-node, from the lock beside this file; needs node and npm.
exec sh "$(dirname "$0")/../npm.sh" "$(dirname "$0")"
