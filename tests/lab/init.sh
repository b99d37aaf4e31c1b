#!/bin/busybox sh
# The first process of a lab machine. It makes the host's root, read-only and with fresh kernel file systems and
# empty temporary ones, its own, and becomes the script `start` in the shared directory.
# From boot.py: /modules/order, names in the order of loading; /show, directories of the host to be seen even
# where a temporary file system hides them.
set -e
/bin/busybox --install -s /bin
mount -t proc proc /proc
while read -r module; do insmod "/modules/$module"; done </modules/order

over9p=trans=virtio,version=9p2000.L,msize=512000,access=any
mount -t 9p -o "$over9p,cache=loose,ro" host /host
mount --bind /host /root

mount -t proc proc /root/proc
mount -t sysfs sysfs /root/sys
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
mount -t devtmpfs devtmpfs /root/dev
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /root/dev/pts
mount -t tmpfs -o mode=1777 shm /root/dev/shm
mount -t tmpfs -o mode=755 run /root/run
mount -t tmpfs -o mode=1777 tmp /root/tmp
for link in fd:/proc/self/fd stdin:/proc/self/fd/0 stdout:/proc/self/fd/1 stderr:/proc/self/fd/2; do
    ln -sf "${link#*:}" "/root/dev/${link%%:*}"
done
while read -r folder; do
    [ -d "/root$folder" ] || { mkdir -p "/root$folder" && mount --bind "/host$folder" "/root$folder"; }
done </show

mkdir /root/run/lab
mount -t 9p -o "$over9p,cache=none" lab /root/run/lab
ip link set lo up
hostname lab
umount /proc
exec switch_root /root /bin/sh /run/lab/start
