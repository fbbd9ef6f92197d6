"""One way to open etcd: the `etcd3` client on today's protobuf.

Its import (`rpc.py`) waits for the first client, so that reading an endpoint needs no gRPC: the doctor checks
settings in an environment without it.
"""

import re
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from stack.network import addresses

if TYPE_CHECKING:
    from stack.etcd.rpc import Etcd3Client

DEFAULT_PORT = 2379
# etcd is in the own network whatever http_proxy says. gRPC waits up to two minutes before it tries a lost connection
# again, and lets all clients of a process share that wait: an instance would stay unregistered for so long after etcd
# is back.
CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
)


def address(endpoint: str) -> tuple[str, int]:
    """Host and port of one etcd. A name stays one, so that an etcd that moves is found again.

    Raises: ValueError: for anything but one plain-text endpoint: `host`, `host:port`, or a URL of these with http:// or
        Mooncake's etcd://.
    """
    expected = f"expected one plain-text endpoint, host:port, e.g. 127.0.0.1:{DEFAULT_PORT} or [::1]:{DEFAULT_PORT}"
    scheme, separator, rest = endpoint.rpartition("://")
    scheme = scheme.lower()  # RFC 3986: of either case
    if "@" in endpoint:
        raise ValueError(f"{expected}; {addresses.NO_PASSWORD}: etcd is spoken to without")
    if len(listed := [part for part in re.split("[,;]", endpoint) if part.strip()]) > 1:
        raise ValueError(f"{expected}; found {len(listed)}, of which `etcd gateway` makes one")
    if scheme == "https":
        raise ValueError(f"{expected}; etcd is not spoken to over TLS here")
    if separator and scheme not in ("http", "etcd"):
        raise ValueError(f"{expected}; found {scheme}://")
    try:
        return addresses.split(rest.removesuffix("/"), DEFAULT_PORT)
    except ValueError as error:
        raise ValueError(f"{expected}; {error}") from error


def authority(endpoint: str) -> str:
    """The endpoint as gRPC, HTTP and Mooncake take it: `host:port`, an IPv6 address in brackets."""
    return addresses.join(*address(endpoint))


def _checked(endpoint: str) -> str:
    if endpoint:
        address(endpoint)
    return endpoint


Endpoint = Annotated[str, AfterValidator(_checked)]  # a variable's value, as it was given, or empty


def connect(endpoint: str, timeout_s: float = 3.0) -> "Etcd3Client":
    """A client for one etcd; opening it does not connect, the first call does."""
    from stack.etcd.rpc import open_client

    host, port = address(endpoint)
    in_url = addresses.bracketed(host)  # etcd3 only puts the two together
    return open_client(host=in_url, port=port, timeout=timeout_s, grpc_options=CHANNEL_OPTIONS)
