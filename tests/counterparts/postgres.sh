#!/bin/sh
# Installs the PostgreSQL server that the tests use as a counterpart, where it is missing (Debian, Ubuntu). The extension
# timescaledb is in no package of theirs: see postgres-timescale/install.sh.
set -eu
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "postgresql is missing; install it or run this as root" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get install -y --no-install-recommends postgresql-common || {
    apt-get update
    apt-get install -y --no-install-recommends postgresql-common
}
# the package would make and start a server of its own, which nobody here asked for
sed -i 's/^#* *create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
apt-get install -y --no-install-recommends postgresql
