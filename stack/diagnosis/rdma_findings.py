"""What is wrong with RDMA on this machine: pure functions from `rdma_facts` to findings."""

from collections.abc import Iterator

from stack.diagnosis.finding import Finding
from stack.diagnosis.rdma_facts import Gid, Port, Rdma

# A packet of 4096 bytes with its headers, the largest that RDMA knows.
ROOMY_MTU = 4200


def judge(rdma: Rdma, *, with_docker: bool, on_gpu: bool) -> Iterator[Finding]:
    """A machine without any device is judged elsewhere."""
    names = [port.device for port in rdma.ports]
    wanted = [name for name in rdma.device_name.split(",") if name]
    for name in wanted:
        if name not in names:
            fix = "correct MOONCAKE_DEVICE_NAME, or load the device's driver"
            yield Finding("error", "MOONCAKE_DEVICE_NAME", name, f"some of {', '.join(names)}", fix)
    used = [port for port in rdma.ports if not wanted or port.device in wanted]
    for port in used:
        yield from _port(port, alone=all(other.state != "ACTIVE" for other in used))
        yield from _gid(port, rdma.gid_index)
    yield from _device_files(rdma, with_docker=with_docker)
    if not with_docker and not rdma.drivers:
        fix = "sudo apt-get install --no-install-recommends ibverbs-providers"
        yield Finding("error", "ibverbs-providers", "no driver in /etc/libibverbs.d", "the device's", fix)
    needed = rdma.registered_bytes
    if not with_docker and rdma.locked_memory is not None and rdma.locked_memory < needed:  # the overlay lifts it
        found = f"{rdma.locked_memory >> 10} KiB that may be locked"
        fix = "`ulimit -l unlimited`, for good in /etc/security/limits.conf: `* - memlock unlimited`"
        yield Finding("error", "memlock", found, f"at least the KV cache's {needed >> 10} KiB", fix)
    if on_gpu and not rdma.gpu_direct:
        found = "neither nvidia_peermem nor the open kernel modules (DMA-BUF)"
        fix = "`modprobe nvidia_peermem`, install the driver's open kernel modules, or set MOONCAKE_PROTOCOL=tcp"
        yield Finding("error", "GPUDirect", found, "one of them: RDMA devices cannot reach GPU memory", fix)


def _port(port: Port, *, alone: bool) -> Iterator[Finding]:
    what = f"RDMA device {port.device}"
    if port.state != "ACTIVE":
        up = (
            f"`ip link set {port.interface} up`, and look at cable and switch" if port.interface else "cable and switch"
        )
        fix = up if port.link_layer == "Ethernet" else "look at cable and switch; InfiniBand needs a subnet manager"
        yield Finding("error" if alone else "warning", what, f"port {port.state or 'unknown'}", "ACTIVE", fix)
    if port.mtu is not None and port.mtu < ROOMY_MTU:
        found, needed = f"MTU {port.mtu} of {port.interface}", f"{ROOMY_MTU} or more for packets of 4096 bytes"
        fix = f"`ip link set {port.interface} mtu 9000` on every host, and jumbo frames on the switch"
        yield Finding("warning", what, found, needed, fix)


def _gid(port: Port, chosen: str) -> Iterator[Finding]:
    """Nothing where none is chosen and Mooncake finds a good one by itself."""
    suggestion = next((gid for gid in port.gids if gid.routable and ":" not in gid.address), None)
    suggestion = suggestion or next((gid for gid in port.gids if gid.routable), None)
    if chosen:
        gid = next((gid for gid in port.gids if str(gid.index) == chosen), None)
        bad = gid is None or (port.link_layer == "Ethernet" and not gid.routable)
        if bad:
            found = (
                f"no GID {chosen} of {port.device}" if gid is None else f"{gid.address}, {gid.kind}, of {port.device}"
            )
            yield Finding(
                "error" if gid is None else "warning", "MC_GID_INDEX", found, _table(port), _choose(suggestion)
            )
    elif port.link_layer == "Ethernet" and suggestion is None:
        where = port.interface or "its interface"
        fix = f"give {where} an IP address: `ip address add ADDRESS/PREFIX dev {where}`"
        yield Finding(
            "error",
            f"RDMA device {port.device}",
            _table(port).removeprefix("one of "),
            "a RoCE v2 GID of the network",
            fix,
        )


def _table(port: Port) -> str:
    rows = ", ".join(f"{gid.index} ({gid.address}, {gid.kind})" for gid in port.gids)
    return f"one of {rows}" if rows else "no GID"


def _choose(suggestion: Gid | None) -> str:
    return "unset it" + (f", or MC_GID_INDEX={suggestion.index}, {suggestion.address}" if suggestion else "")


def _device_files(rdma: Rdma, *, with_docker: bool) -> Iterator[Finding]:
    if rdma.ports and not rdma.nodes:
        fix = "`modprobe ib_uverbs`; rdma-core loads it at the start"
        yield Finding("error", "/dev/infiniband", "no uverbs device", "one for each RDMA device", fix)
    for node in rdma.closed_nodes:
        who = "the containers' user" if with_docker else "this user"
        fix = f"`chmod 666 /dev/infiniband/{node}`; for good rdma-core's udev rules"
        yield Finding("error", f"/dev/infiniband/{node}", f"closed to {who}", "readable and writable", fix)
