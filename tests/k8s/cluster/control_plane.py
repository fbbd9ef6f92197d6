"""etcd, API server, controllers and scheduler, each with an identity and the rights that Kubernetes gives it."""

import secrets
import subprocess
import time
from pathlib import Path

import yaml

from tests.etcd_process import ETCD
from tests.k8s.cluster import addresses
from tests.k8s.cluster.api import Api
from tests.k8s.cluster.binaries import ClusterError
from tests.k8s.cluster.processes import Process

START_S = 60.0
ETCD_CLIENT, ETCD_PEER = "http://127.0.0.1:2379", "http://127.0.0.1:2390"
ADMIN = "admin"
CONTROLLERS, SCHEDULER, PROXY = "system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy"


def kubelet_user(node: str) -> str:
    return f"system:node:{node}"


class ControlPlane:
    """`folder` holds the state of one cluster's life and is new for each."""

    def __init__(self, folder: Path, programs: Path, nodes: list[str]) -> None:
        self.folder = folder
        self._programs = programs
        self._processes: list[Process] = []
        groups = {ADMIN: "system:masters", CONTROLLERS: "", SCHEDULER: "", PROXY: ""}
        groups |= {kubelet_user(node): "system:nodes" for node in nodes}
        self._tokens = {user: secrets.token_hex(16) for user in groups}
        table = "".join(f'{token},{user},{user},"{groups[user]}"\n' for user, token in self._tokens.items())
        (folder / "tokens.csv").touch(mode=0o600)
        (folder / "tokens.csv").write_text(table)
        self.api = Api(addresses.API_URL, self._tokens[ADMIN], folder / "certificates" / "apiserver.crt")

    def start(self) -> None:
        """Until the API answers. Raises: ClusterError."""
        key, public = self.folder / "accounts.key", self.folder / "accounts.pub"
        for command in (["genrsa", "-out", key, "2048"], ["rsa", "-in", key, "-pubout", "-out", public]):
            subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True)
        self._run(
            "etcd",
            str(ETCD),
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={ETCD_CLIENT}",
            f"--advertise-client-urls={ETCD_CLIENT}",
            f"--listen-peer-urls={ETCD_PEER}",
            f"--initial-advertise-peer-urls={ETCD_PEER}",
            f"--initial-cluster=default={ETCD_PEER}",
            "--log-level=warn",
            "--unsafe-no-fsync",
        )
        self._run(
            "apiserver",
            str(self._programs / "kube-apiserver"),
            f"--etcd-servers={ETCD_CLIENT}",
            f"--advertise-address={addresses.HOST}",
            "--secure-port=6443",
            f"--cert-dir={self.api.certificate.parent}",
            f"--service-cluster-ip-range={addresses.SERVICES}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={public}",
            f"--service-account-signing-key-file={key}",
            "--kubelet-preferred-address-types=InternalIP",
            # No kube-proxy here: servers of further APIs are reached at their own addresses.
            "--enable-aggregator-routing=true",
        )
        self._wait_until_ready()
        self._run(
            "controllers",
            str(self._programs / "kube-controller-manager"),
            f"--kubeconfig={self.kubeconfig(CONTROLLERS)}",
            f"--service-account-private-key-file={key}",
            f"--root-ca-file={self.api.certificate}",
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--horizontal-pod-autoscaler-sync-period=5s",
        )
        self._run(
            "scheduler",
            str(self._programs / "kube-scheduler"),
            f"--kubeconfig={self.kubeconfig(SCHEDULER)}",
            "--leader-elect=false",
        )

    def kubeconfig(self, user: str) -> Path:
        """The file with which a client is `user`."""
        file = self.folder / f"{user.replace(':', '-')}.kubeconfig"
        cluster = {"server": addresses.API_URL, "certificate-authority": str(self.api.certificate)}
        configuration = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": self._tokens[user]}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": user}}],
            "current-context": "tests",
        }
        file.touch(mode=0o600)
        file.write_text(yaml.safe_dump(configuration))
        return file

    def ended(self) -> list[str]:
        """What of it has ended by itself, and how."""
        return [how for process in self._processes if (how := process.ended()) is not None]

    def stop(self) -> None:
        while self._processes:
            self._processes.pop().stop()

    def _run(self, name: str, *command: str) -> None:
        self._processes.append(Process(name, command, self.folder / f"{name}.log"))

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while not self.api.ready():
            if ended := self.ended():
                raise ClusterError("; ".join(ended))
            if time.monotonic() > deadline:
                log = (self.folder / "apiserver.log").read_text()[-2000:]
                raise ClusterError(f"the API server was not ready after {START_S:.0f} s: {log}")
            time.sleep(0.2)
