#!/bin/sh
# Installs what builds and runs containers and pods (podman, buildah, runc, catatonit), and makes a Debian base with Python that stands in for the
# public base image, where they are missing (Debian, Ubuntu). Asked for by make image-test and make bundle-test alone.
set -eu
cd "$(dirname "$0")/../.."
if [ "$(id -u)" -ne 0 ]; then
    echo "containers and chroots are made as root; run this as root" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
missing=""
for tool in podman buildah runc debootstrap catatonit; do
    command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
done
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086 - one word for each package
    apt-get install -y --no-install-recommends $missing || {
        apt-get update
        apt-get install -y --no-install-recommends $missing
    }
fi

base=build/counterparts/debian/base.tar
[ -s "$base" ] && exit 0
# from where this machine has its own packages
mirror=$(apt-get indextargets --format '$(SITE) $(RELEASE) $(REPO_URI)' 'Created-By: Packages' | awk '$2 == "bookworm" {print $3; exit}')
made=build/counterparts/debian/root
rm -rf "$made"
mkdir -p "$made"
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$made" "$mirror" >build/counterparts/debian/log 2>&1 ||
    { tail -5 build/counterparts/debian/log >&2; exit 1; }
rm -rf "$made"/var/cache/apt/* "$made"/var/lib/apt/lists/* "$made"/usr/share/doc/* "$made"/usr/share/locale/* "$made"/usr/share/man/*
tar -C "$made" --exclude=./dev/* --exclude=./proc/* --exclude=./sys/* -cf "$base.part" .
mv "$base.part" "$base"
rm -rf "$made"
