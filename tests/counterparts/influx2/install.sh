#!/bin/sh
# Builds the server of InfluxDB 2.7 into build/counterparts/influx2, without its web pages; needs go, cargo and a C compiler,
# and takes 24 minutes on two busy cores. No test needs it unless BIFROST_INFLUX2 asks for it: see docs/influxdb.md.
set -eu
version=v2.7.12
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$here/../../.." && pwd)/build/counterparts/influx2

[ "$version" = "$(cat "$out/built_from" 2>/dev/null)" ] && exit 0
mkdir -p "$out/bin"
export GOFLAGS=-mod=mod
if [ ! -d "$out/src" ]; then
    module=$(cd "$out" && go mod download -json "github.com/influxdata/influxdb/v2@$version" |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["Dir"])')
    cp -r "$module" "$out/src.new"
    chmod -R u+w "$out/src.new"
    sed -i '/^toolchain/d' "$out/src.new/go.mod"
    mv "$out/src.new" "$out/src"
fi
cd "$out/src"
# Flux's parser is written in Rust: this stands in the place of pkg-config, and builds it when the compiler asks for its flags
go build -o "$out/bin/pkg-config" github.com/influxdata/pkg-config
export PATH="$out/bin:$PATH" PKG_CONFIG="$out/bin/pkg-config" CARGO_BUILD_JOBS=1
if command -v rustup >/dev/null 2>&1; then
    RUSTUP_TOOLCHAIN=$(rustup toolchain list | awk 'NR == 1 { print $1 }')
    export RUSTUP_TOOLCHAIN
fi
flux=$(go env GOCACHE)/pkgconfig/github.com/influxdata/flux@$(go list -m -f '{{.Version}}' github.com/influxdata/flux)
pkg-config --libs flux >>"$out/log" 2>&1 || {
    chmod -R u+w "$flux"
    # a newer compiler warns about more, and it forbids warnings
    sed -i '/deny(warnings/d' "$flux/libflux/flux-core/src/lib.rs" "$flux/libflux/flux/src/lib.rs"
    pkg-config --libs flux >>"$out/log" 2>&1
}
go build -p 1 -tags 'sqlite_foreign_keys,sqlite_json' -ldflags '-s -w' -o "$out/influxd.new" ./cmd/influxd >>"$out/log" 2>&1
mv "$out/influxd.new" "$out/influxd"
echo "$version" >"$out/built_from"
rm -rf "$out/src" "$out/bin"
