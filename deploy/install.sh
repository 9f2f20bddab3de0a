#!/bin/sh
# Installs Bifrost from the unpacked offline bundle that this file lies in; nothing is fetched. docs/edge-box.md tells more.
set -eu
umask 022

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
unit=/etc/systemd/system/bifrost.service
prefix=''
user=''
extras=all
python=''
start=yes
ready_within=2m
check_only=no

usage() {
    cat <<END
Usage: install.sh [options]

Installs this version of Bifrost beside those that are there, from the wheels in this folder, each by its hash, and makes it a
service of systemd. Run again, it changes nothing. Where another version runs, the service goes over to this one, and back when
it does not get ready. Configuration, readings and secrets are never touched.

  --prefix DIR         folder of the versions (as before, at first /opt/bifrost)
  --user NAME          who the service runs as; made when there is none (as before, at first bifrost)
  --extras all|edge    all protocols and targets, or those of an edge box, which are smaller (all)
  --python PROGRAM     which Python (python3.12, python3.11 or python3)
  --no-start           do not start or restart the service
  --ready-within TIME  in which a new version must get ready, else the old one comes back (2m)
  --check              look whether it can be installed here, and change nothing
  --help               this text

Exit code: 0 done, 1 refused or failed, 2 wrong options.
END
}

refuse() { # why, what to do
    echo "install.sh: $1" >&2
    echo "  $2" >&2
    exit 1
}

wrong() {
    echo "install.sh: $1; --help tells what there is" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case $1 in
    --prefix=* | --user=* | --extras=* | --python=* | --ready-within=*)
        option=${1%%=*}
        value=${1#*=}
        shift
        set -- "$option" "$value" "$@"
        continue
        ;;
    --prefix | --user | --extras | --python | --ready-within)
        [ $# -ge 2 ] || wrong "$1 wants a value"
        case $1 in
        --prefix) prefix=${2%/} ;;
        --user) user=$2 ;;
        --extras) extras=$2 ;;
        --python) python=$2 ;;
        --ready-within) ready_within=$2 ;;
        esac
        shift 2
        ;;
    --no-start) start=no && shift ;;
    --check) check_only=yes && shift ;;
    --help | -h) usage && exit 0 ;;
    *) wrong "there is no option $1" ;;
    esac
done
# what is not said is as it was the last time
if [ -f "$unit" ]; then
    [ -n "$user" ] || user=$(sed -n 's/^User=//p' "$unit")
    [ -n "$prefix" ] || prefix=$(sed -n 's|^ExecStart=\(/.*\)/current/bin/bifrost .*|\1|p' "$unit")
fi
: "${user:=bifrost}" "${prefix:=/opt/bifrost}"
case $extras in all | edge) ;; *) wrong "--extras is all or edge, not '$extras'" ;; esac
case $user in '' | -* | *[!a-z0-9_-]*) wrong "--user is a name of lower-case letters, digits, - and _, not '$user'" ;; esac
case $prefix in
*[!A-Za-z0-9._/-]* | */../* | */..) wrong "--prefix is a plain path, not '$prefix'" ;;
/?*) ;;
*) wrong "--prefix is an absolute path, not '$prefix'" ;;
esac
for hidden in /home /root /run/user /tmp /var/tmp; do # by ProtectHome and PrivateTmp of the unit
    case $prefix/ in
    "$hidden"/*) wrong "--prefix $prefix lies in $hidden, where the service does not see it; /opt and /srv are seen" ;;
    esac
done

# ------------------------------------------------------------------ may it be installed here?

[ "$(uname -s)" = Linux ] || refuse "this is $(uname -s); the bundle is for Linux" "install it on a Linux with systemd"
[ "$(id -u)" -eq 0 ] || refuse "only root can install a service" "run: sudo $here/install.sh"
for file in MANIFEST SHA256SUMS deploy/own.lock; do
    [ -f "$here/$file" ] || refuse "$here/$file is missing" "unpack the whole archive, and run the install.sh that lies in it"
done

version='' revision='' wheel='' pip=''
architectures='' # that the bundle is for
while read -r key value _; do
    case $key in
    version) version=$value ;;
    revision) revision=$value ;;
    wheel) wheel=$value ;;
    pip) pip=$value ;;
    platform) case " $architectures " in *" $value "*) ;; *) architectures="$architectures $value" ;; esac ;;
    esac
done <"$here/MANIFEST"

machine=$(uname -m)
case $machine in amd64) machine=x86_64 ;; arm64) machine=aarch64 ;; esac
case " $architectures " in
*" $machine "*) ;;
*) refuse "this machine is $machine; the bundle is for$architectures" \
    "make one for it where all wheels are had (make bundle ARGS='--architecture …'), or use a machine of those" ;;
esac

libc=$(getconf GNU_LIBC_VERSION 2>/dev/null || true)
libc=${libc#glibc }
[ -n "$libc" ] || refuse "there is no glibc (Alpine and its like have another C library)" \
    "use a Debian 12, Ubuntu 22.04, RHEL 9 or newer, or the image (docs/docker.md)"

# the first Python that the bundle has wheels for
said=''
for candidate in ${python:-python3.12 python3.11 python3}; do
    found=$("$candidate" -c 'import struct, sys; print("%d.%d %d" % (*sys.version_info[:2], struct.calcsize("P") * 8))' 2>/dev/null) || continue
    said="$said $candidate ${found% *}"
    [ "${found#* }" = 64 ] || refuse "$candidate is a program of 32 bits on a $machine" "install a system of 64 bits: there are no wheels for this one"
    while read -r key value fits of needs wheels megabytes; do
        if [ "$key $value $fits $of" = "platform $machine ${found% *} $extras" ]; then
            python=$candidate python_version=$fits glibc=$needs count=$wheels size=$megabytes
            break 2
        fi
    done <"$here/MANIFEST"
done
[ -n "${python_version:-}" ] || refuse "no Python that the bundle is for (3.11, 3.12); found:${said:- none}" \
    "install one from the system's own medium (Debian 12: python3, Ubuntu 24.04: python3, RHEL 9: python3.11), or name it by --python"
"$python" -c 'import venv, ssl, sqlite3' 2>/dev/null || refuse "$python has not all of its own library (venv, ssl, sqlite3)" \
    "install the rest of it from the system's medium; Debian and Ubuntu: libpython3-stdlib"

newest=$(printf '%s\n%s\n' "$glibc" "$libc" | sort -t . -k 1,1n -k 2,2n | tail -n 1)
[ "$newest" = "$libc" ] || refuse "the wheels need glibc $glibc, this machine has $libc" \
    "use a newer system: Debian 12, Ubuntu 22.04, RHEL 9 or later"

target=$prefix/$version
mark=$target/bundle # written when all is installed: what is there without it was cut off
digest=$(sha256sum "$here/SHA256SUMS")
digest=${digest%% *}
there=no
if [ -f "$mark" ]; then
    read -r had_digest had_extras <"$mark" || true
    if [ "$had_digest" = "$digest" ]; then
        case "$had_extras" in all | "$extras") there=yes ;; *) there=part ;; esac
    fi
fi
current=''
[ ! -L "$prefix/current" ] || current=$(readlink -f "$prefix/current")
if [ $there = no ] && [ -e "$target" ] && [ "$current" = "$(readlink -f "$target")" ]; then
    refuse "$target runs, and was not installed from this bundle" \
        "two builds of one version cannot stand side by side: stop the service, remove $target and $prefix/current, run this again"
fi
if [ $there != yes ]; then
    place=$prefix
    while [ ! -d "$place" ]; do place=$(dirname "$place"); done
    free=$(df -Pk "$place" | tail -n 1 | { read -r _ _ _ left _ && echo $((left / 1024)); })
    wanted=$((size + size / 4 + 100)) # compiled modules, and some to live on
    [ "$free" -ge "$wanted" ] || refuse "$free MB are free below $place, $wanted MB are needed" \
        "make room, choose another disk by --prefix, or --extras edge, which needs less"
fi

echo "checking the files of this folder"
(cd "$here" && sha256sum --check --quiet --strict SHA256SUMS >&2) || refuse "these files are not what they were when the bundle was made" \
    "copy the archive anew, and compare it with its .sha256 before unpacking"
echo "Bifrost $version ($extras) fits: $machine, $python $python_version, glibc $libc"
[ $check_only = no ] || exit 0

# ------------------------------------------------------------------ the program

if [ $there = yes ]; then
    echo "$target is there"
else
    done=no
    trap '[ $done = yes ] || [ $there = part ] || rm -rf "$target"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    echo "installing $count wheels into $target"
    mkdir -p "$prefix"
    if [ $there = no ]; then
        rm -rf "$target"
        "$python" -m venv --without-pip "$target"
    fi
    # pip runs from its wheel, is not installed, and asks nobody: no index, no settings of this machine, nothing that the locks do not name
    "$target/bin/python" "$here/wheels/$pip/pip" --isolated --disable-pip-version-check --no-input --no-cache-dir install --quiet \
        --root-user-action=ignore --no-index --find-links "$here/wheels" --only-binary=:all: --no-deps --require-hashes \
        -r "$here/deploy/$extras.lock" -r "$here/deploy/own.lock" || refuse "the wheels could not be installed" "see above; nothing was changed"
    broken=$("$target/bin/python" "$here/wheels/$pip/pip" --isolated --disable-pip-version-check check) ||
        refuse "what was installed does not fit together: $broken" "have the bundle made anew; nothing was changed"
    share=$target/share/bifrost
    mkdir -p "$share"
    for part in docs deploy config k8s sbom CHANGELOG.md LICENSE README.md MANIFEST; do
        [ ! -e "$here/$part" ] || cp -R "$here/$part" "$share/"
    done
    "$target/bin/bifrost" --version >/dev/null || refuse "the program does not start here" "see above; nothing was changed"
    sync
    echo "$digest $extras" >"$mark.new"
    mv "$mark.new" "$mark"
    done=yes
fi
[ -e "$prefix/docs" ] || ln -s current/share/bifrost/docs "$prefix/docs"

# ------------------------------------------------------------------ the service

case $(systemctl is-system-running 2>/dev/null || true) in
running | degraded | starting | initializing | maintenance) systemd=yes ;;
*) systemd=no ;;
esac
config=/etc/bifrost/gateway.yaml
if [ -n "$current" ] && [ "$current" != "$(readlink -f "$target")" ]; then
    if [ $systemd = yes ] && [ $start = yes ]; then
        "$target/bin/bifrost" upgrade "$here/wheels/$wheel" --extras "$extras" --program "$prefix" --ready-within "$ready_within" -c "$config"
    else
        "$target/bin/bifrost" check -c "$config"
        ln -sfn "$target" "$prefix/current.new"
        mv -T "$prefix/current.new" "$prefix/current"
        echo "$prefix/current -> $target; it runs when the service is started again"
        start=no
    fi
fi
if [ $start = no ]; then set -- --no-start; else set --; fi
"$target/bin/bifrost" install --systemd --program "$prefix" --user "$user" "$@"

cat <<END
Bifrost $version is installed (revision $revision).

What to do next:
  configuration   $config; examples in $prefix/current/share/bifrost/config/examples,
                  or: $prefix/current/bin/bifrost create source opcua
  is it sound?    $prefix/current/bin/bifrost check -c $config
  is all reached? $prefix/current/bin/bifrost doctor -c $config
END
if [ $systemd = yes ]; then
    cat <<END
  run it          systemctl restart bifrost && systemctl status bifrost
  what it says    journalctl -u bifrost -o cat; the set-up token of the browser's pages is told there once
END
else
    echo "  run it          systemd does not run here; the service starts with the machine"
fi
cat <<END
  read on         $prefix/docs/edge-box.md
  take it away    $prefix/current/bin/bifrost uninstall --systemd; readings and configuration stay
END
