#!/bin/sh
# Builds the edge node and the host application beside this file with Eclipse Tahu into build/counterparts/sparkplug-tahu; needs a JDK and Maven.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$here/../../.." && pwd)/build/counterparts/sparkplug-tahu
made=$(cat "$here/pom.xml" "$here/EdgeNode.java" "$here/HostApp.java" "$here/logback.xml" | cksum)
[ "$(cat "$out/made" 2>/dev/null)" = "$made" ] && exit 0
mkdir -p "$out/classes"
mvn --quiet --batch-mode --file "$here/pom.xml" dependency:copy-dependencies -DoutputDirectory="$out/lib" >&2
javac -cp "$out/lib/*" -d "$out/classes" "$here/EdgeNode.java" "$here/HostApp.java"
cp "$here/logback.xml" "$out/classes/"
echo "$made" > "$out/made"
