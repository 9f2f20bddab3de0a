#!/bin/sh
# Builds Telegraf, the gateway that Bifrost is measured beside, into build/peers/telegraf; needs go. Prints where it is.
# The module's checksum is that of Go's checksum database; only the plugins that the benchmarks use are built in.
set -eu
version=v1.40.1
checksum="h1:Khy9nYrFIml530V+g6RapoQAOK24/cV7njcyVEdIXY0="
out=$(cd "$(dirname "$0")/.." && pwd)/build/peers
tags="custom,inputs.internal,inputs.modbus,inputs.mqtt_consumer,inputs.opcua_listener,outputs.discard,outputs.file,parsers.json_v2,serializers.influx"
if [ "$(cat "$out/telegraf.version" 2>/dev/null)" != "$version" ]; then
    mkdir -p "$out/source"
    found=$(cd "$out" && GOTOOLCHAIN=auto GOFLAGS=-modcacherw go mod download -json "github.com/influxdata/telegraf@$version")
    echo "$found" | grep -qF "\"Sum\": \"$checksum\"" || { echo "Telegraf $version is not the one that was looked at" >&2; exit 1; }
    cp -R "$(echo "$found" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')/." "$out/source/"
    chmod -R u+w "$out/source"
    echo "building Telegraf $version, some five minutes" >&2
    (cd "$out/source" && GOTOOLCHAIN=auto GOFLAGS=-modcacherw go build -trimpath -ldflags "-X github.com/influxdata/telegraf/internal.Version=${version#v}" -tags "$tags" -o "$out/telegraf" ./cmd/telegraf >&2)
    echo "$version" >"$out/telegraf.version"
fi
echo "$out/telegraf"
