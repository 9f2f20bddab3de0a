#!/bin/sh
# Installs the MQTT broker and clients that the tests use as counterparts, where they are missing (Debian, Ubuntu).
set -eu
if command -v mosquitto >/dev/null 2>&1 || [ -x /usr/sbin/mosquitto ]; then
    command -v mosquitto_pub >/dev/null 2>&1 && exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "mosquitto and mosquitto-clients are missing; install them or run this as root" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get install -y --no-install-recommends mosquitto mosquitto-clients || {
    apt-get update
    apt-get install -y --no-install-recommends mosquitto mosquitto-clients
}
# the package starts a broker of its own on port 1883, which nobody here asked for
if command -v systemctl >/dev/null 2>&1; then systemctl disable --now mosquitto >/dev/null 2>&1 || true; fi
