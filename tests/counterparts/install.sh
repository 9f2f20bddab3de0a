#!/bin/sh
# Installs the real servers and clients that the tests talk to, and the tools they look with; what is there already is left as it is.
# Three go on side by side: what comes by the system's packages, what is fetched, and what takes a compiler long.
set -eu
cd "$(dirname "$0")"

one_by_one() {
    for counterpart in "$@"; do
        sh "$counterpart" || { echo "counterpart not installed: ${counterpart%/install.sh}" >&2; exit 1; }
        echo "counterpart ready: ${counterpart%/install.sh}"
    done
}

sh tools.sh
one_by_one mosquitto.sh postgres.sh rabbitmq.sh influxdb.sh prometheus.sh chromium.sh modbus-c/install.sh opcua-c/install.sh &
packages=$!
one_by_one postgres-timescale/install.sh modbus-node/install.sh opcua-node/install.sh oidc/install.sh opcua-milo/install.sh sparkplug/install.sh \
    sparkplug-tahu/install.sh kafka/install.sh apicurio/install.sh &
fetched=$!
one_by_one kubernetes/install.sh compose/install.sh mochi/install.sh pubsub/install.sh collector/install.sh &
compiled=$!
for stream in $packages $fetched $compiled; do
    wait "$stream"
done
