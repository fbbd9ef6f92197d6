"""HTTP within the stack goes straight to where it is sent, whatever http_proxy and its like say.

Those variables name a way to the outside: a shell on a company's network has them, and Docker puts them into every
container. A proxy out there knows neither this machine's loopback nor the network between the services.
"""

import urllib.request
from collections.abc import Iterable, Mapping
from http.client import HTTPResponse
from typing import cast

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def open_directly(request: urllib.request.Request | str, timeout_s: float) -> HTTPResponse:
    """`urllib.request.urlopen` without proxies, with its exceptions."""
    return cast(HTTPResponse, _opener.open(request, timeout=timeout_s))


def past_proxies(environment: Mapping[str, str], hosts: Iterable[str]) -> dict[str, str]:
    """`no_proxy`, in both spellings, with `hosts` added: for programs that cannot be told in any other way.

    Go's gRPC is one, in Mooncake's client of etcd and in etcd itself, whose JSON gateway dials etcd's own address. Some
    read the one spelling first, some the other, so that each keeps its own value where it has one.
    """
    added = dict.fromkeys(hosts)
    found: dict[str, str] = {}
    for name, other in (("no_proxy", "NO_PROXY"), ("NO_PROXY", "no_proxy")):
        given = environment.get(name) or environment.get(other, "")
        kept = [part.strip() for part in given.split(",") if part.strip()]
        found[name] = ",".join([*kept, *(host for host in added if host not in kept)]) if kept != ["*"] else "*"
    return found
