#!/bin/sh
# Fetches Eclipse Milo and compiles the server beside this file into build/counterparts/opcua-milo; needs a JDK and Maven.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$here/../../.." && pwd)/build/counterparts/opcua-milo

built_from() { cat "$here/install.sh" "$here/pom.xml" "$here/Server.java" | cksum; }

[ "$(built_from)" = "$(cat "$out/built_from" 2>/dev/null)" ] && exit 0
missing=""
command -v mvn >/dev/null 2>&1 || missing="$missing maven"
command -v javac >/dev/null 2>&1 || missing="$missing default-jdk-headless"
if [ -n "$missing" ]; then
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update -qq
    # shellcheck disable=SC2086 - one word for each package
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
fi
mkdir -p "$out/classes"
if ! cmp -s "$here/pom.xml" "$out/fetched.xml"; then
    rm -rf "$out/libraries"
    mvn --quiet --batch-mode --file "$here/pom.xml" dependency:copy-dependencies "-DoutputDirectory=$out/libraries" >&2
    cp "$here/pom.xml" "$out/fetched.xml"
fi
javac -cp "$out/libraries/*" -d "$out/classes" "$here/Server.java"
built_from >"$out/built_from"
