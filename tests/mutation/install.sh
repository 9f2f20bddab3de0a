#!/bin/sh
# Puts the mutation tool into build/mutation/venv, beside the packages of .venv, which stays as it is.
set -eu
cd "$(dirname "$0")/../.."
venv=build/mutation/venv
if ! test -x "$venv/bin/mutmut"; then
    .venv/bin/python -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check mutmut==3.8.1
fi
.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
    > "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/gateway.pth"
