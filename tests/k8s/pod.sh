#!/bin/sh
# Runs a program as a pod's container is run, with nothing but the kernel: a root file system of its own that nobody can write,
# user 1000, no capability, a network of its own. Called inside `unshare --mount --net --pid --fork`.
# pod.sh ROOT REPO PYTHON CONFIG DATA PROGRAM...
set -eu
root=$1 repo=$2 python=$3 config=$4 data=$5
shift 5
mount --make-rprivate /
# the loopback device, which a network of its own begins without
"$python/bin/python3" -c 'import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 1))'
mount -t tmpfs -o mode=755 pod "$root"
cd "$root"
mkdir -p proc dev tmp etc/bifrost data usr
for place in bin sbin lib lib64; do
    [ ! -e "/$place" ] || ln -s "usr/$place" "$place"
done
mount --rbind /usr usr
mount --rbind /dev dev
mount -t proc proc proc
mount -t tmpfs -o mode=1777 tmp tmp
for file in ld.so.cache ld.so.conf ld.so.conf.d passwd group nsswitch.conf localtime; do
    [ ! -e "/etc/$file" ] || cp -r "/etc/$file" etc/
done
echo "127.0.0.1 localhost" >etc/hosts
for place in "$repo" "$python"; do
    mkdir -p "$root$place"
    mount --bind "$place" "$root$place"
    mount -o remount,bind,ro "$root$place"
done
mount --bind "$config" etc/bifrost
mount -o remount,bind,ro etc/bifrost
mount --bind "$data" data
mount -o remount,ro "$root"
exec chroot "$root" setpriv --reuid 1000 --regid 1000 --groups 1000 --no-new-privs --bounding-set=-all --inh-caps=-all -- "$@"
