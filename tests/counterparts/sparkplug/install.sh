#!/bin/sh
# Installs sparkplug-client into build/counterparts/sparkplug, from the lock beside this file; needs node and npm.
exec sh "$(dirname "$0")/../npm.sh" "$(dirname "$0")"
