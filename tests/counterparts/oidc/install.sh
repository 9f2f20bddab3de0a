#!/bin/sh
# Installs oidc-provider into build/counterparts/oidc, from the lock beside this file; needs node and npm.
exec sh "$(dirname "$0")/../npm.sh" "$(dirname "$0")"
