#!/bin/sh
# Installs the browser that the tests of the web interface look through, where it is missing (Debian, Ubuntu).
set -eu
command -v chromium >/dev/null 2>&1 && exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "chromium is missing; install it or run this as root" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get install -y --no-install-recommends chromium fonts-dejavu-core || {
    apt-get update
    apt-get install -y --no-install-recommends chromium fonts-dejavu-core
}
