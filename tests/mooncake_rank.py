"""One rank's engines and memory without vLLM, for tests: python mooncake_rank.py NAME HOST ETCD TRANSPORT

Prints its address as JSON, then obeys one JSON line after the other:
{"write": ADDRESS, "pieces": [[from, to, length], ...]} answers null or the error; {"fill": BYTE} and {"sha256": null}
are about its own memory; {"revoke": null} answers with the address that its memory has from then on. Needs the
interpreter of vLLM's environment.
"""

import ctypes
import hashlib
import json
import sys
import time
from typing import Any

from connector.cache.pieces import Piece
from connector.mooncake.engine import TransferError
from connector.mooncake.engines import open_engines
from connector.telling.stats import TransferStats
from connector.transfer.revocation import Revocation

MEMORY_BYTES = 32 << 20
WRITE_TIMEOUT_S = 5.0  # so that a peer that hangs holds a connection for one second

name, host, etcd, transport = sys.argv[1:]
memory = ctypes.create_string_buffer(MEMORY_BYTES)
base = ctypes.addressof(memory)
try:
    engines = open_engines(name, host, etcd, transport, "", WRITE_TIMEOUT_S)
except TransferError as error:
    sys.exit(str(error))
engines.register(base, MEMORY_BYTES)
revocation = Revocation(engines, TransferStats())


def address() -> dict[str, Any]:
    return {"segments": engines.segments, "host": engines.host_identity, "base": base}


print(json.dumps(address()), flush=True)
for line in sys.stdin:
    answer: str | dict[str, Any] | None = None
    match json.loads(line):
        case {"write": peer, "pieces": pieces}:
            chosen = engines.choose(peer["segments"], peer["host"])
            try:
                engines.write(
                    chosen,
                    peer["segments"][chosen],
                    [Piece(base + source, peer["base"] + target, length) for source, target, length in pieces],
                )
            except TransferError as error:
                answer = str(error)
        case {"fill": byte}:
            ctypes.memset(base, byte, MEMORY_BYTES)
        case {"revoke": None}:
            segments = engines.segments
            while not revocation.over(segments, segments):
                time.sleep(0.01)
            answer = address()
        case {"sha256": None}:
            answer = hashlib.sha256(memory).hexdigest()
    print(json.dumps(answer), flush=True)
