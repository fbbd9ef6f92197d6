#!/bin/bash
# A node's first process, in namespaces of its own (network, mounts, processes): engine, kubelet and kube-proxy.
#
#   node.sh NAME ADDRESS GATEWAY PODS_GATEWAY FOLDER PROGRAMS
#
# FOLDER holds kubelet.kubeconfig, kube-proxy.kubeconfig and kubelet.yaml, and stays on the machine with its images.
# Nothing of the machine's own is written to. On SIGTERM it ends its containers and its engine.
set -euo pipefail

name=$1 address=$2 gateway=$3 pods_gateway=$4 folder=$5 programs=$6
here=$(cd "$(dirname "$0")" && pwd)
engine=unix://$folder/engine

# Paths that engine and kubelet cannot be told to leave alone.
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
# The kubelet sets these for the whole machine: it gets copies.
rm -rf "$folder/sysctl" "$folder/kubelet" "$folder/engine"
mkdir -p "$folder/sysctl" "$folder/kubelet" "$folder/docker"
for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys \
    kernel/keys/root_maxbytes; do
    copy=$folder/sysctl/${setting//\//.}
    [ ! -f "/proc/sys/$setting" ] || { cp "/proc/sys/$setting" "$copy"; mount --bind "$copy" "/proc/sys/$setting"; }
done

until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip link set lo up
ip address add "$address" dev eth0
ip link set eth0 up
ip route add default via "$gateway"
echo 1 >/proc/sys/net/ipv4/ip_forward

stop() {
    trap - TERM
    # Whatever fails here, the engine has to end: its namespaces, and all that is left in them, end with this process.
    kill "$kubelet" "$proxy" 2>/dev/null || true
    docker -H "$engine" ps --all --quiet | xargs -r docker -H "$engine" rm --force >/dev/null || true
    kill "$dockerd"
    wait "$dockerd"
    exit 0
}

# No rules of the engine's own: pods have addresses that every node routes, and kube-proxy does the rest.
dockerd --host "$engine" --data-root "$folder/docker" --exec-root /run/docker --pidfile /run/docker.pid \
    --bip "$pods_gateway" --iptables=false --ip-masq=false \
    --add-runtime node="$here/runc.sh" --default-runtime node >"$folder/dockerd.log" 2>&1 &
dockerd=$!
kubelet='' proxy=''
trap stop TERM
until docker -H "$engine" info >/dev/null 2>&1; do
    kill -0 "$dockerd" || { tail -n 20 "$folder/dockerd.log" >&2; exit 1; }
    sleep 0.2
done
# Of an earlier life that was cut off.
docker -H "$engine" ps --all --quiet | xargs -r docker -H "$engine" rm --force >/dev/null
docker -H "$engine" image inspect pause:tests >/dev/null 2>&1 ||
    tar -C "$programs" -c pause | docker -H "$engine" import --change 'ENTRYPOINT ["/pause"]' - pause:tests >/dev/null
echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables

"$programs/kubelet" --config="$folder/kubelet.yaml" --kubeconfig="$folder/kubelet.kubeconfig" --node-ip="${address%/*}" \
    --hostname-override="$name" --root-dir="$folder/kubelet" --cert-dir="$folder/kubelet/pki" \
    --container-runtime=docker --docker-endpoint="$engine" --pod-infra-container-image=pause:tests \
    --experimental-dockershim-root-directory="$folder/kubelet/dockershim" --runtime-cgroups=/ >"$folder/kubelet.log" 2>&1 &
kubelet=$!
# The machine's limit on connections is not this namespace's to set.
"$programs/kube-proxy" --kubeconfig="$folder/kube-proxy.kubeconfig" --proxy-mode=iptables --cluster-cidr=10.244.0.0/16 \
    --hostname-override="$name" --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 \
    --conntrack-tcp-timeout-close-wait=0 >"$folder/kube-proxy.log" 2>&1 &
proxy=$!
wait -n "$dockerd" "$kubelet" "$proxy"
tail -n 20 "$folder"/*.log >&2
exit 1
