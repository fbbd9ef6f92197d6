#!/bin/busybox sh
# The guest's first process: loads the modules, then hands over to init.sh of the root image. There is no udev.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do /bin/busybox insmod "/modules/$module"; done </modules/order
until [ -b /dev/vda ]; do /bin/busybox sleep 0.05; done
/bin/busybox mount -t ext4 -o ro,noatime /dev/vda /sysroot
/bin/busybox mount --move /dev /sysroot/dev
/bin/busybox mount --move /proc /sysroot/proc
exec /bin/busybox switch_root /sysroot /init.sh
