"""One way to open etcd: the `etcd3` client on today's protobuf.

Its import (`etcd_rpc.py`) waits for the first client, so that reading an endpoint needs no gRPC: the doctor checks
settings in an environment without it.
"""

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from stack.etcd_rpc import Etcd3Client

# protobuf's variable. No process of the stack follows the shell's: the client of etcd needs one implementation, and
# everything else is best off with protobuf's own choice.
PROTOBUF_CHOICE = "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"
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
    """Host and port of `host`, `host:port` or `http://host:port` (the forms that the seed document and etcd use)."""
    parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
    if not parts.hostname:
        raise ValueError(f"{endpoint!r}: expected host:port, e.g. 127.0.0.1:{DEFAULT_PORT}")
    return parts.hostname, parts.port or DEFAULT_PORT


def connect(endpoint: str, timeout_s: float = 3.0) -> "Etcd3Client":
    """A client for one etcd; opening it does not connect, the first call does."""
    from stack.etcd_rpc import open_client

    host, port = address(endpoint)
    return open_client(host=host, port=port, timeout=timeout_s, grpc_options=CHANNEL_OPTIONS)
