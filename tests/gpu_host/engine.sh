#!/bin/bash
# A Docker engine on a machine that has none and no network, from Debian 13's packages: unpacked, not installed.
#
#   engine.sh start PACKAGES    PACKAGES: a folder of .deb files (pack.sh makes it); does nothing where an engine answers
#   engine.sh stop              end the engine that this script started, and take its folders away
#
# Needs root, a C library of 2.38 or newer, cgroup v2 and overlayfs. Everything lies under GPU_HOST_DIR (/var/tmp/gpu-host):
# the unpacked packages, the engine's state, and the GPUs' description (cdi.py), which containers name them by. On a
# machine that runs in a container itself the root may be an overlay, which another cannot lie upon: the state is then
# in memory.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
home=${GPU_HOST_DIR:-/var/tmp/gpu-host}
programs=$home/programs
libraries=$programs/usr/lib/x86_64-linux-gnu
state=$home/state
# The only two places outside.
client=/usr/local/bin/docker
plugin=/usr/local/lib/docker/cli-plugins/docker-compose
limit_s=60

say() { echo "engine: $* (${SECONDS} s)"; }

unpack() {
    mkdir -p "$programs" "$(dirname "$client")" "$(dirname "$plugin")"
    for package in "$1"/*.deb; do dpkg-deb -x "$package" "$programs"; done
    ln -sf "$programs/usr/bin/docker" "$client"
    ln -sf "$programs/usr/libexec/docker/cli-plugins/docker-compose" "$plugin"
    # Debian chooses between the two kinds with links that only an installation makes; the kernel may know one kind alone.
    for name in iptables ip6tables; do
        for kind in nft legacy; do
            ln -sf "$name-$kind" "$programs/usr/sbin/$name"
            if "$programs/usr/sbin/$name" -t nat -n -L >/dev/null 2>&1; then
                say "$name-$kind"
                break
            fi
        done
    done
}

# In a cgroup with processes of its own no controller can be handed on: they move into one beside the containers'.
free_cgroup() {
    mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup /sys/fs/cgroup
    [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ] || return 0 # the older kind, which has no such rule
    mkdir -p /sys/fs/cgroup/machine
    while read -r process; do
        echo "$process" >/sys/fs/cgroup/machine/cgroup.procs 2>/dev/null || true # a kernel thread stays
    done </sys/fs/cgroup/cgroup.procs
    for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
        echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control || true
    done
    say "controllers: $(cat /sys/fs/cgroup/cgroup.subtree_control)"
}

make_state() {
    mkdir -p "$state" "$home/cdi"
    if [ "$(stat -f -c %T "$state")" = overlayfs ]; then
        mount -t tmpfs -o mode=0711,size="${GPU_HOST_STATE:-40g}" tmpfs "$state"
        say "the state is in memory"
    fi
    cat >"$home/daemon.json" <<JSON
{"data-root": "$state/docker", "exec-root": "$home/run", "pidfile": "$home/dockerd.pid", "storage-driver": "overlay2",
 "features": {"cdi": true}, "cdi-spec-dirs": ["$home/cdi"]}
JSON
}

start() {
    if docker info >/dev/null 2>&1; then
        say "an engine answers already"
        return
    fi
    export PATH=$programs/usr/sbin:$programs/usr/bin:$PATH LD_LIBRARY_PATH=$libraries XTABLES_LIBDIR=$libraries/xtables
    unpack "$1"
    free_cgroup
    make_state
    python3 "$here/../../stack/cdi.py" >"$home/cdi/nvidia.json"
    ip link set lo up
    echo 1 >/proc/sys/net/ipv4/ip_forward || true
    setsid nohup dockerd --config-file "$home/daemon.json" >"$home/dockerd.log" 2>&1 </dev/null &
    launched=$!
    until docker info >/dev/null 2>&1; do
        if ! kill -0 "$launched" 2>/dev/null || [ "$SECONDS" -ge "$limit_s" ]; then
            say "dockerd does not answer; the end of its log:" >&2
            tail -n 30 "$home/dockerd.log" >&2
            exit 1
        fi
        sleep 0.5
    done
    say "engine $(docker version --format '{{.Server.Version}}'), compose $(docker compose version --short)"
}

stop() {
    engine=$(cat "$home/dockerd.pid" 2>/dev/null || true)
    if [ -z "$engine" ] || ! kill "$engine" 2>/dev/null; then
        say "no engine of this script runs"
        return
    fi
    while kill -0 "$engine" 2>/dev/null && [ "$SECONDS" -lt "$limit_s" ]; do sleep 0.5; done
    # The deepest first: the engine leaves its folder mounted onto itself.
    awk -v home="$home/" 'index($5, home) == 1 { print $5 }' /proc/self/mountinfo | sort -r | xargs -r umount
    rm -rf "$home"
    find "$client" "$plugin" -xtype l -delete
    say "ended"
}

case ${1:-} in
start) start "${2:?usage: engine.sh start PACKAGES}" ;;
stop) stop ;;
*)
    echo "usage: engine.sh start PACKAGES | stop" >&2
    exit 2
    ;;
esac
