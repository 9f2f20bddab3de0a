#!/bin/sh
# Makes the passwords of docker-compose.yaml, at random, and keeps them in .env beside it; those that are there stay as they are.
set -eu
file=$(cd "$(dirname "$0")/../.." && pwd)/.env
umask 077
touch "$file"
chmod 600 "$file"
for name in GRAFANA_ADMIN_PASSWORD ZEROBUS_CLIENT_SECRET; do
    grep -q "^$name=." "$file" && continue
    value=$(od -An -N18 -tx1 /dev/urandom | tr -d ' \n')
    echo "$name=$value" >>"$file"
    echo "$name is made, in $file"
done
