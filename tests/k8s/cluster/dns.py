"""The cluster's DNS: dnsmasq with the names of Services, taken from the API each second."""

import threading
from pathlib import Path
from typing import Any

from tests.k8s.cluster import addresses
from tests.k8s.cluster.api import Api
from tests.k8s.cluster.processes import Process

INTERVAL_S = 1.0


def records(services: list[dict[str, Any]], endpoints: list[dict[str, Any]]) -> str:
    """A hosts file: each Service at its own address, a headless one and its named pods at those of the ready pods.

    With `publishNotReadyAddresses` the API lists all pods as ready ones.
    """
    lines: set[str] = set()
    headless = set()
    for service in services:
        name = f"{service['metadata']['name']}.{service['metadata']['namespace']}"
        match service["spec"].get("clusterIP"):
            case "None":
                headless.add(name)
            case str(address) if address:
                lines.add(f"{address} {name}.svc.{addresses.DOMAIN}")
    for endpoint in endpoints:
        name = f"{endpoint['metadata']['name']}.{endpoint['metadata']['namespace']}"
        if name not in headless:
            continue
        for subset in endpoint.get("subsets") or []:
            for address in subset.get("addresses") or []:
                lines.add(f"{address['ip']} {name}.svc.{addresses.DOMAIN}")
                if hostname := address.get("hostname"):
                    lines.add(f"{address['ip']} {hostname}.{name}.svc.{addresses.DOMAIN}")
    return "".join(f"{line}\n" for line in sorted(lines))


class Dns:
    def __init__(self, folder: Path, api: Api) -> None:
        self._hosts = folder / "hosts"
        self._api = api
        self._stopping = threading.Event()
        self._hosts.touch()
        command = ["dnsmasq", "--keep-in-foreground", "--user=root", "--pid-file=", "--conf-file=/dev/null"]
        command += ["--no-hosts", "--no-resolv", f"--addn-hosts={self._hosts}", f"--local=/{addresses.DOMAIN}/"]
        command += [f"--listen-address={addresses.HOST}", "--bind-interfaces"]
        self._dnsmasq = Process("dnsmasq", command, folder / "dnsmasq.log")
        self._thread = threading.Thread(target=self._follow, name="dns")
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._dnsmasq.stop()

    def _follow(self) -> None:
        known = ""
        while not self._stopping.wait(INTERVAL_S):
            try:
                now = records(self._api.items("/api/v1/services"), self._api.items("/api/v1/endpoints"))
            except OSError as error:
                print(f"dns: {error}", flush=True)
                continue
            if now != known:
                self._hosts.write_text(now)
                self._dnsmasq.hang_up()  # it reads the file anew
                known = now
