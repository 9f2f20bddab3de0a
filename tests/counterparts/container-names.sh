#!/bin/sh
# Installs the plugin by which containers of one network find each other by name, where podman's networks are CNI's (Debian 12) and it
# is missing. Asked for by make gateway-test STAND_INS=1 alone, as root.
set -eu
[ -e /usr/lib/cni/dnsname ] && exit 0
export DEBIAN_FRONTEND=noninteractive
apt-get install -y --no-install-recommends golang-github-containernetworking-plugin-dnsname || {
    apt-get update
    apt-get install -y --no-install-recommends golang-github-containernetworking-plugin-dnsname
}
