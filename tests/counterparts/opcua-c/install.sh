#!/bin/sh
# Builds open62541 and the servers beside this file into build/counterparts/opcua-c; needs cargo and a C compiler.
# open62541's source comes inside a crate, which cargo fetches; the checksum below is that of the crate.
set -eu
crate=open62541-sys version=0.6.6
checksum=12fe6cb894630ce8b6d7f15c6c6ed7f457310d6cd318d563252e755a0fd4990e
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$here/../../.." && pwd)/build/counterparts/opcua-c

built_from() { cat "$here/install.sh" "$here/server.c" "$here/secure.c" | cksum; }

quietly() { "$@" >>"$out/log" 2>&1 || { tail -n 40 "$out/log" >&2; exit 1; }; }

[ "$(built_from)" = "$(cat "$out/built_from" 2>/dev/null)" ] && exit 0
missing=""
command -v cmake >/dev/null 2>&1 || missing="$missing cmake"
command -v cc >/dev/null 2>&1 || missing="$missing gcc libc6-dev"
[ -e /usr/include/openssl/ssl.h ] || missing="$missing libssl-dev"
if [ -n "$missing" ]; then
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update -qq
    # shellcheck disable=SC2086 - one word for each package
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
fi
build_library() {
    mkdir -p "$out/fetch/src"
    : >"$out/fetch/src/lib.rs"
    cat >"$out/fetch/Cargo.toml" <<END
[package]
name = "fetch"
version = "0.0.0"
edition = "2021"

[dependencies]
$crate = "=$version"
END
    quietly cargo vendor --manifest-path "$out/fetch/Cargo.toml" "$out/vendor"
    if ! grep -q "\"package\":\"$checksum\"" "$out/vendor/$crate/.cargo-checksum.json"; then
        echo "$crate $version is not the one that was looked at" >&2
        exit 1
    fi
    quietly cmake -S "$out/vendor/$crate/open62541" -B "$out/library" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
        -DUA_ENABLE_ENCRYPTION=OPENSSL -DUA_ENABLE_HISTORIZING=ON -DUA_NAMESPACE_ZERO=REDUCED -DUA_LOGLEVEL=600 \
        -DCMAKE_INTERPROCEDURAL_OPTIMIZATION=OFF \
        -DCMAKE_INSTALL_PREFIX="$out/installed"
    quietly cmake --build "$out/library" --target install --parallel 2
    cksum <"$here/install.sh" >"$out/library_from"
}

mkdir -p "$out"
: >"$out/log"
[ "$(cksum <"$here/install.sh")" = "$(cat "$out/library_from" 2>/dev/null)" ] || build_library
library=$(find "$out/installed" -name libopen62541.a)
for program in server secure; do
    quietly cc -O2 -Wall -Wextra -isystem "$out/installed/include" "$here/$program.c" -o "$out/$program.new" \
        "$library" -lssl -lcrypto -lpthread -lm
    mv "$out/$program.new" "$out/$program"
done
built_from >"$out/built_from"
