"""One instance of `compose.rdma.yaml` without vLLM: with the variables that compose gives it.

The producer writes 4 MiB into the consumer's memory over the transport that the settings ask for. Both print what they
may do as one JSON line, and exit with 0 when every byte has arrived. Addresses are exchanged through files in /shared.
"""

import ctypes
import json
import os
import resource
import time
from pathlib import Path

from connector.cache.pieces import Piece
from connector.mooncake.engines import open_engines
from stack.configuration.environment import load
from stack.instances.settings import LauncherSettings

SHARED = Path("/shared")
LENGTH = 4 << 20
BYTE = 7
LIMIT_S = 100.0


def wait_for(name: str) -> str:
    deadline = time.monotonic() + LIMIT_S
    while not (SHARED / name).exists():
        assert time.monotonic() < deadline, f"no {name}"
        time.sleep(0.1)
    return (SHARED / name).read_text()


def tell(name: str, text: str) -> None:
    """All of it or nothing."""
    (SHARED / f"{name}.unfinished").write_text(text)
    (SHARED / f"{name}.unfinished").rename(SHARED / name)


settings = load(LauncherSettings)
mooncake = settings.mooncake
memory = ctypes.create_string_buffer(LENGTH)
engines = open_engines(
    settings.role, settings.host, mooncake.metadata_server, mooncake.protocol, mooncake.device_name, write_timeout=30
)
engines.register(ctypes.addressof(memory), LENGTH)
status = Path("/proc/self/status").read_text()
capabilities = next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd"))
locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
facts = {"uid": os.getuid(), "capabilities": int(capabilities, 16), "memlock": locked, "segments": engines.segments}
print(json.dumps({settings.role: facts}), flush=True)
if settings.role == "decode":
    address = {"segments": engines.segments, "host": engines.host_identity, "base": ctypes.addressof(memory)}
    tell("address", json.dumps(address))
    wait_for("written")
    assert memory.raw == bytes([BYTE]) * LENGTH
    tell("arrived", "")
else:
    peer = json.loads(wait_for("address"))
    ctypes.memset(memory, BYTE, LENGTH)
    transport = engines.choose(peer["segments"], peer["host"])
    engines.write(transport, peer["segments"][transport], [Piece(ctypes.addressof(memory), peer["base"], LENGTH)])
    tell("written", transport)
