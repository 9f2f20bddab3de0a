#!/bin/sh
# Fetches Apicurio Registry, the version that pom.xml names, into build/counterparts/apicurio; needs a JDK and Maven.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$here/../../.." && pwd)/build/counterparts/apicurio

built_from() { cat "$here/install.sh" "$here/pom.xml" | cksum; }

[ "$(built_from)" = "$(cat "$out/built_from" 2>/dev/null)" ] && exit 0
missing=""
command -v mvn >/dev/null 2>&1 || missing="$missing maven"
command -v java >/dev/null 2>&1 || missing="$missing default-jre-headless"
if [ -n "$missing" ]; then
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update -qq
    # shellcheck disable=SC2086 - one word for each package
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
fi
rm -rf "$out" "$here/target" # where Maven notes what it has unpacked
mkdir -p "$out"
mvn --quiet --batch-mode --file "$here/pom.xml" dependency:unpack "-DoutputDirectory=$out/program" >&2
rm -rf "$here/target"
built_from >"$out/built_from"
