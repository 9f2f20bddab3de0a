#!/bin/sh
# Installs the RabbitMQ server that the tests use as a counterpart, where it is missing (Debian, Ubuntu).
set -eu
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "rabbitmq-server is missing; install it or run this as root" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get install -y --no-install-recommends rabbitmq-server || {
    apt-get update
    apt-get install -y --no-install-recommends rabbitmq-server
}
# the package starts a server of its own on port 5672, which nobody here asked for
if command -v systemctl >/dev/null 2>&1; then systemctl disable --now rabbitmq-server >/dev/null 2>&1 || true; fi
