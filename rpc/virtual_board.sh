#!/bin/sh
# Runs as the first process of private mount, pid, uts and ipc namespaces: makes the tree look like
# a running board and becomes its SSH server. Arguments: TREE PORT NAME
set -eu
tree=$1
port=$2

hostname "$3"
# A mount of its own, so that `df` has something to say about `/`.
mount --bind "$tree" "$tree"
cd "$tree"
mount -t proc proc "$tree/proc"
mount --bind "$tree/etc/virtual/cpuinfo" "$tree/proc/cpuinfo"

mount -t tmpfs -o mode=755,size=64k dev "$tree/dev"
for node in null zero full random urandom tty; do
    : > "$tree/dev/$node"
    mount --bind "/dev/$node" "$tree/dev/$node"
done
mkdir "$tree/dev/pts" "$tree/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$tree/dev/pts"
mount -t tmpfs -o mode=1777,size=256m shm "$tree/dev/shm"
ln -s pts/ptmx "$tree/dev/ptmx"
ln -s /proc/self/fd "$tree/dev/fd"
ln -s /proc/self/fd/0 "$tree/dev/stdin"
ln -s /proc/self/fd/1 "$tree/dev/stdout"
ln -s /proc/self/fd/2 "$tree/dev/stderr"

mount -t tmpfs -o mode=755,size=16m run "$tree/run"
mkdir "$tree/run/sshd"
# A small disk of its own, to try what happens when a board's disk is full.
mkdir -m 1777 "$tree/run/small-disk"
mount -t tmpfs -o mode=1777,size=4m small-disk "$tree/run/small-disk"

exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin \
    chroot "$tree" /usr/sbin/sshd -D -e -p "$port"
