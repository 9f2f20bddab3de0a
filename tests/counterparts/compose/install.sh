#!/bin/sh
# Puts two readers of compose files into build/counterparts/compose: the specification's own (the program beside this file; needs Go),
# and podman-compose; needs the project's .venv.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
out=$root/build/counterparts/compose
made=$(cat "$here/install.sh" "$here/go.mod" "$here/go.sum" "$here/main.go" "$here/podman-compose.txt" | cksum)
[ "$(cat "$out/made" 2>/dev/null)" = "$made" ] && exit 0
rm -rf "$out"
mkdir -p "$out"
(cd "$here" && go build -o "$out/compose" .)
"$root/.venv/bin/python" -m pip --quiet --disable-pip-version-check install --require-hashes -r "$here/podman-compose.txt" --target "$out/lib"
echo "$made" > "$out/made"
