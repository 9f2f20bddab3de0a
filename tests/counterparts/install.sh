#!/bin/sh
# Installs the real servers and clients that the tests talk to, and the tools they look with; what is there already is left as it is.
set -eu
cd "$(dirname "$0")"
for counterpart in tools.sh mosquitto.sh postgres.sh rabbitmq.sh influxdb.sh postgres-timescale/install.sh pubsub/install.sh modbus-c/install.sh modbus-node/install.sh opcua-c/install.sh opcua-node/install.sh opcua-milo/install.sh sparkplug/install.sh sparkplug-tahu/install.sh kafka/install.sh apicurio/install.sh; do
    sh "$counterpart"
    echo "counterpart ready: ${counterpart%/install.sh}"
done
