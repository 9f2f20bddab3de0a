#!/bin/sh
# Fetches Apache Kafka into build/counterparts/kafka, and has Java keep its classes ready, so that it starts in half the time;
# needs a JDK and Maven.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$here/../../.." && pwd)/build/counterparts/kafka

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
mkdir -p "$out"
if ! cmp -s "$here/pom.xml" "$out/fetched.xml"; then
    rm -rf "$out/libraries"
    mvn --quiet --batch-mode --file "$here/pom.xml" dependency:copy-dependencies "-DoutputDirectory=$out/libraries" >&2
    cp "$here/pom.xml" "$out/fetched.xml"
fi

# one start of a broker, whose classes are written down as it ends
rm -rf "$out/classes.jsa" "$out/trial"
mkdir "$out/trial"
trap 'rm -rf "$out/trial"' EXIT
cat >"$out/trial/server.properties" <<END
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:29093
listeners=PLAINTEXT://127.0.0.1:29092,CONTROLLER://127.0.0.1:29093
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs=$out/trial/data
END
quiet="-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
java $quiet -cp "$out/libraries/*" kafka.tools.StorageTool format -t MkU3OEVBNTcwNTJENDM2Qg -c "$out/trial/server.properties" >/dev/null
java $quiet -Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info -XX:ArchiveClassesAtExit="$out/classes.jsa" \
    -cp "$out/libraries/*" kafka.Kafka "$out/trial/server.properties" >"$out/trial/log" 2>&1 &
broker=$!
for _ in $(seq 600); do
    grep -q "Kafka Server started" "$out/trial/log" && break
    kill -0 $broker || { cat "$out/trial/log" >&2; exit 1; }
    sleep 0.1
done
kill $broker
wait $broker || true
test -s "$out/classes.jsa"
built_from >"$out/built_from"
