#!/bin/busybox sh
# Runs the commands that come over the serial console: "NUMBER SHELL COMMAND" is answered by the lines it printed,
# each after "NUMBER|", and "NUMBER=STATUS".
/bin/busybox --install -s /bin
export PATH=/bin LD_LIBRARY_PATH=/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu/ceph
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
for each in /modules/*.ko; do insmod "$each"; done
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo -onlcr
echo ready
while read -r number command; do
    sh -c "$command" >/tmp/output 2>&1 </dev/null
    status=$?
    sed "s/^/$number|/" /tmp/output
    echo "$number=$status"
done
