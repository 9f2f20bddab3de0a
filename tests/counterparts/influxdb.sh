#!/bin/sh
# Installs the InfluxDB 1.x and the VictoriaMetrics that the tests use as counterparts, where they are missing (Debian).
set -eu
missing=""
command -v influxd >/dev/null 2>&1 || missing="$missing influxdb"
command -v victoria-metrics >/dev/null 2>&1 || missing="$missing victoria-metrics"
[ -z "$missing" ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "missing:$missing; install them or run this as root" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 - one word for each package
apt-get install -y --no-install-recommends $missing || {
    apt-get update
    apt-get install -y --no-install-recommends $missing
}
# the packages would start servers of their own, which nobody here asked for
if command -v systemctl >/dev/null 2>&1; then systemctl disable --now influxdb victoria-metrics >/dev/null 2>&1 || true; fi
