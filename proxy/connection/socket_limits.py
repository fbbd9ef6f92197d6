"""How many connections there may be and what each may hold, as far as this process may have files."""

import resource
from dataclasses import dataclass, replace

import structlog

OWN_FILES = 128  # etcd's channel, threads' pipes, logs, and connections that are just being closed

log = structlog.get_logger()


@dataclass(frozen=True)
class SocketLimits:
    """head_bytes: request line and headers; buffered_bytes: bodies of all requests being received or served."""

    connections: int
    head_bytes: int
    head_timeout_s: float
    buffered_bytes: int


def within_open_files(limits: SocketLimits, running_requests: int) -> SocketLimits:
    """The limits with no more connections than this process may have files for; raises that bound as far as it may.

    A running request has a connection from its client and two to instances. To run out of files is not an option: gRPC,
    which etcd is watched with, then ends the process.
    """
    needed = OWN_FILES + limits.connections + 2 * min(running_requests, limits.connections)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = max(soft, needed if hard == resource.RLIM_INFINITY else min(needed, hard))
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if soft == resource.RLIM_INFINITY or allowed >= needed:
        return limits
    fitting = min(limits.connections, max(1, (allowed - OWN_FILES) // 3))
    log.warning("fewer connections than configured", connections=fitting, open_files=allowed, needed=needed)
    return replace(limits, connections=fitting)
