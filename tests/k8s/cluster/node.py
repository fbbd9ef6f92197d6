"""A node: namespaces with an engine, a kubelet and a kube-proxy of its own (node.sh), on a wire to the others."""

import json
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from tests.k8s.cluster import addresses
from tests.k8s.cluster.binaries import ClusterError
from tests.k8s.cluster.control_plane import PROXY, ControlPlane, kubelet_user
from tests.k8s.cluster.processes import Process

SCRIPT = Path(__file__).with_name("node.sh")
ENGINE_S = 90.0
STOP_S = 60.0  # its containers are ended first


@dataclass
class Node:
    """`folder` stays on the machine between two clusters, with the images in it."""

    number: int
    folder: Path
    programs: Path
    _process: Process | None = field(default=None, init=False, repr=False)

    @property
    def name(self) -> str:
        return f"node{self.number}"

    @property
    def engine(self) -> str:
        """As DOCKER_HOST takes it."""
        return f"unix://{self.folder / 'engine'}"

    def start(self, control_plane: ControlPlane) -> None:
        """It registers itself; engine and kubelet are up some seconds later. Raises: ClusterError."""
        self.folder.mkdir(exist_ok=True)
        for user, name in ((kubelet_user(self.name), "kubelet"), (PROXY, "kube-proxy")):
            shutil.copy(control_plane.kubeconfig(user), self.folder / f"{name}.kubeconfig")
        (self.folder / "resolv.conf").write_text(f"nameserver {addresses.HOST}\n")
        (self.folder / "kubelet.yaml").write_text(yaml.safe_dump(self._kubelet()))
        address = f"{addresses.node(self.number)}/{addresses.PREFIX}"
        words = (self.name, address, addresses.HOST, addresses.pods_gateway(self.number))
        namespaces = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        script = ("bash", str(SCRIPT), *words, str(self.folder), str(self.programs))
        self._process = Process(self.name, ("unshare", *namespaces, *script), self.folder / "node.log")
        wire = f"wire{self.number}"
        _ip("link", "add", wire, "type", "veth", "peer", "name", "eth0", "netns", str(self._first_process().pid))
        _ip("link", "set", wire, "master", "switch", "up")
        _ip("route", "add", addresses.pods(self.number), "via", addresses.node(self.number))

    def wait_for_engine(self) -> None:
        """Raises: ClusterError."""
        deadline = time.monotonic() + ENGINE_S
        while subprocess.run(["docker", "-H", self.engine, "info"], capture_output=True, check=False).returncode:
            if how := self.ended():
                raise ClusterError(how)
            if time.monotonic() > deadline:
                raise ClusterError(f"{self.name}: its engine does not answer, log in {self.folder / 'dockerd.log'}")
            time.sleep(0.2)

    def received_bytes(self) -> int:
        """What has come to it over the wire, from the other nodes and from the tests."""
        command = ["ip", "-json", "-statistics", "link", "show", f"wire{self.number}"]
        (link,) = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        return int(link["stats64"]["tx"]["bytes"])

    def kill(self, pod: str, container: str) -> None:
        """The kernel's way to end a process that took too much: nothing is said to it. `pod` is its uid."""
        labels = {"pod.uid": pod, "container.name": container}
        filters = [f"--filter=label=io.kubernetes.{name}={value}" for name, value in labels.items()]
        docker = ["docker", "-H", self.engine]
        found = subprocess.run([*docker, "ps", "--quiet", *filters], capture_output=True, text=True, check=True)
        subprocess.run([*docker, "kill", *found.stdout.split()], check=True, capture_output=True)

    def containers(self) -> str:
        """A line for each, also of those that have ended."""
        command = ["docker", "-H", self.engine, "ps", "--all", "--format", "{{.Names}} {{.Status}}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def ended(self) -> str | None:
        return self._process.ended() if self._process is not None else None

    def stop(self) -> None:
        if self._process is None:
            return
        if self._process.ended() is None:
            first = self._first_process()
            first.terminate()
            psutil.wait_procs([first], STOP_S)
        self._process.stop()  # takes what is left in its namespaces with it
        self._process = None

    def _first_process(self) -> psutil.Process:
        """That of its namespaces, child of the one that made them."""
        assert self._process is not None
        unshare = psutil.Process(self._process.pid)
        deadline = time.monotonic() + ENGINE_S
        while not (children := unshare.children()) or children[0].name() == "unshare":
            if how := self.ended():
                raise ClusterError(how)
            if time.monotonic() > deadline:
                raise ClusterError(f"{self.name}: no namespaces")
            time.sleep(0.02)
        return children[0]

    def _kubelet(self) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            # Only the tests reach it.
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "clusterDNS": [addresses.HOST],
            "clusterDomain": addresses.DOMAIN,
            "resolvConf": str(self.folder / "resolv.conf"),
            # Two kubelets of one machine would take each other's groups of processes for orphans.
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": False,
            "enforceNodeAllocatable": [],
            "featureGates": {"DevicePlugins": False},
            "failSwapOn": False,
            # The disk is the machine's: what others do on it evicts nothing here.
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
        }


def _ip(*words: str) -> None:
    result = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise ClusterError(f"`ip {' '.join(words)}` failed: {result.stderr.strip()}")
