"""How masters that stand by for each other and their clients meet: in etcd, under one name."""

import base64
import json
import urllib.request

from stack import etcd
from stack.network import addresses
from stack.network.direct_http import open_directly

CLUSTER = "pd-stack"
OF_CLIENTS = {"MC_STORE_CLUSTER_ID": CLUSTER}
# Of calls to a master, in milliseconds: instances' lookups have a budget of their own, their saves wait behind each
# other for these. With Mooncake's own an owner whose leader's host was gone brought its memory to the other master 32 s
# after that one led, with these 1 s.
RPC_TIMEOUTS = {"MC_RPC_TIMEOUT_MS": "1000", "MC_RPC_CONNECT_TIMEOUT_MS": "500"}
SCHEME = "etcd://"
LEADER_KEY = f"mooncake-store/{CLUSTER}/master_view"
LOG = f"/oplog/{CLUSTER}/"


def address(endpoint: str) -> str:
    """What Mooncake's clients are told in the place of a master's host:port."""
    return SCHEME + etcd.authority(endpoint)


def of_clients(master: str) -> dict[str, str]:
    """Variables of a client of `master`, a host:port or what `address` says."""
    return {**RPC_TIMEOUTS, **(OF_CLIENTS if master.startswith(SCHEME) else {})}


def has_leader(master: str, timeout_s: float = 1.0) -> bool:
    """Whether a client of `master` would find one; of a single one it is not known.

    Over HTTP, as no process of vLLM's has a client of etcd.
    """
    if not master.startswith(SCHEME):
        return True
    url = addresses.http_url(*etcd.address(master)) + "/v3/kv/range"
    asked = json.dumps({"key": base64.b64encode(LEADER_KEY.encode()).decode()}).encode()
    request = urllib.request.Request(url, asked, {"Content-Type": "application/json"})
    try:
        with open_directly(request, timeout_s) as answer:
            return "kvs" in json.load(answer)
    except (OSError, ValueError):
        return False
