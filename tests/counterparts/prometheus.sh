#!/bin/sh
# Installs Prometheus and promtool, which the tests of dashboards and alerts ask, where they are missing (Debian, Ubuntu).
set -eu
command -v prometheus >/dev/null 2>&1 && command -v promtool >/dev/null 2>&1 && exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "prometheus is missing; install it or run this as root" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get install -y --no-install-recommends prometheus || {
    apt-get update
    apt-get install -y --no-install-recommends prometheus
}
# the package starts a server of its own on port 9090, which nobody here asked for
if command -v systemctl >/dev/null 2>&1; then systemctl disable --now prometheus >/dev/null 2>&1 || true; fi
