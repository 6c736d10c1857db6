#!/bin/sh
# First thing that runs in the guest, as root: the file systems and modules the tests need, then the command.
shared=/run/pyproxy

while read -r tag path; do
    mount -t 9p -o trans=virtio,version=9p2000.L,access=any,msize=512000,cache=loose,ro "$tag" "$path" || exit 70
done <"$shared/mounts"

modprobe -a configfs sg sd_mod target_core_mod tcm_loop virtio_scsi || exit 71
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config || exit 72

# LIO answers REGISTER with NOT READY when it cannot write its metadata here.
mkdir -p /var/target
mount -t tmpfs tmpfs /var/target || exit 73
mkdir -p /var/target/pr /var/target/alua

udevadm settle --timeout=60
export PYTHONDONTWRITEBYTECODE=1 PYPROXY_VM_GUEST=1 HOME=/root LC_ALL=C.UTF-8 PATH="$PATH:/usr/sbin:/sbin"
cd /
: >"$shared/ready"
sh "$shared/command"
status=$?
echo "$status" >"$shared/status"
sync
exit "$status"
