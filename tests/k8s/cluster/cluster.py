"""A whole cluster: control plane, nodes and DNS in the network namespace of this process."""

import shutil
import socket
import subprocess
import time
from pathlib import Path

from tests.k8s.cluster import addresses
from tests.k8s.cluster.binaries import ClusterError
from tests.k8s.cluster.control_plane import ADMIN, ControlPlane
from tests.k8s.cluster.dns import Dns
from tests.k8s.cluster.node import Node

NODE_READY_S = 120.0


class Cluster:
    def __init__(self, cache: Path, programs: Path, nodes: int) -> None:
        """`cache`: where nodes keep their images from one cluster to the next."""
        self.programs = programs
        self.nodes = [Node(number, cache / f"node{number}", programs) for number in range(1, nodes + 1)]
        self.folder = cache / "run"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.control_plane = ControlPlane(self.folder, programs, [node.name for node in self.nodes])
        self.api = self.control_plane.api
        self._dns: Dns | None = None

    def start(self) -> None:
        """Until every node is ready. Raises: ClusterError."""
        if [name for _, name in socket.if_nameindex()] != ["lo"]:
            raise ClusterError("found network devices; needed a network namespace of its own; fix: make test-k8s")
        for command in (
            "link set lo up",
            "link add switch type bridge",
            f"address add {addresses.HOST}/{addresses.PREFIX} dev switch",
            "link set switch up",
            # A Service answers here as on the node that it is asked through.
            f"route add {addresses.SERVICES} via {addresses.node(1)}",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")
        self.control_plane.start()
        self.kubeconfig = self.control_plane.kubeconfig(ADMIN)
        self._dns = Dns(self.folder, self.api)
        for node in self.nodes:
            node.start(self.control_plane)
        for node in self.nodes:
            node.wait_for_engine()
        self._wait_for_nodes()

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()
        if self._dns is not None:
            self._dns.stop()
        self.control_plane.stop()

    def _wait_for_nodes(self) -> None:
        deadline = time.monotonic() + NODE_READY_S
        while (ready := self._ready_nodes()) != {node.name for node in self.nodes}:
            if ended := [*self.control_plane.ended(), *(how for node in self.nodes if (how := node.ended()))]:
                raise ClusterError("; ".join(ended))
            if time.monotonic() > deadline:
                raise ClusterError(f"ready after {NODE_READY_S:.0f} s: {sorted(ready)} of {len(self.nodes)} nodes")
            time.sleep(0.2)

    def _ready_nodes(self) -> set[str]:
        return {
            node["metadata"]["name"]
            for node in self.api.items("/api/v1/nodes")
            if {"type": "Ready", "status": "True"}.items()
            <= next((c for c in node["status"].get("conditions", []) if c["type"] == "Ready"), {}).items()
        }
