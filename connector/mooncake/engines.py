"""One transfer engine for each transport that this rank offers its peers, all over the same memory."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path

from connector.cache.pieces import Piece
from connector.mooncake.engine import LossyEngine, MooncakeEngine, TransferEngine, TransferError
from connector.mooncake.polled_write import always
from connector.mooncake.transports import TRANSPORTS, Transport, candidates, choose, host_identity

log = logging.getLogger(__name__)


def open_engines(
    name: str,
    host: str,
    metadata_server: str,
    setting: str,
    device_name: str,
    write_timeout: float,
    drop_switch: Path | None = None,
) -> "Engines":
    """Start the engines of a rank.

    Args: name: begins its segments' names, and must be new at every start, because peers keep what they learned about a
        name; setting: a transport, or `auto` for all that work here; drop_switch: `LossyEngine`'s, for tests.

    Raises: TransferError: when the transport, or with `auto` every one, is refused, with the reason.
    """

    numbers = count()

    def open_engine(transport: str) -> TransferEngine:
        segment = f"{name}-{transport}-{next(numbers)}"
        engine = MooncakeEngine(segment, host, metadata_server, transport, device_name, write_timeout=write_timeout)
        return LossyEngine(engine, drop_switch) if drop_switch else engine

    return Engines(_working(candidates(setting), open_engine), open_engine)


def _working(transports: Iterable[str], attempt: Callable[[str], TransferEngine]) -> dict[str, TransferEngine]:
    """The engines of those transports for which the attempt succeeds. Raises: TransferError: when there are none."""
    working, refusals = {}, []
    for transport in transports:
        try:
            working[transport] = attempt(transport)
        except TransferError as error:
            refusals.append(str(error))
    if not working:
        raise TransferError("; ".join(refusals))
    for refusal in refusals:
        log.info("left out: %s", refusal)
    return working


class Engines:
    """A rank's address for transfers is its `segments`, by transport, and its `host_identity`.

    `open_engine` opens one for a transport, under a name that was never used.
    """

    def __init__(self, engines: dict[str, TransferEngine], open_engine: Callable[[str], TransferEngine]) -> None:
        self._engines = engines  # replaced, never changed: other threads read it
        self._open_engine = open_engine
        self._memory: list[tuple[int, int]] = []
        self._peers_told: set[str] = set()  # segments of which the log knows the transport
        self.host_identity = host_identity()

    @property
    def segments(self) -> dict[str, str]:
        return {transport: engine.segment for transport, engine in self._engines.items()}

    @property
    def best(self) -> Transport:
        return TRANSPORTS[next(iter(self._engines))]

    def register(self, address: int, length: int) -> None:
        """Make memory known to every engine; one that refuses it is left out, e.g. RDMA where it cannot reach the GPU.

        Raises: TransferError: when all refuse.
        """

        def register_with(transport: str) -> TransferEngine:
            self._engines[transport].register(address, length)
            return self._engines[transport]

        self._engines = _working(self._engines, register_with)
        self._memory.append((address, length))

    def close(self, transport: str) -> None:
        """No peer can write through this transport any more when its segment is gone from `segments`."""
        self._engines[transport].close()
        self._engines = {name: engine for name, engine in self._engines.items() if name != transport}

    def open(self, transport: str) -> None:
        """A closed transport's new engine, with the same memory. Raises: TransferError."""
        engine = self._open_engine(transport)
        for address, length in self._memory:
            engine.register(address, length)
        self._engines = {**self._engines, transport: engine}

    def replace(self, transport: str, wrap: Callable[[TransferEngine], TransferEngine]) -> None:
        """Let this transport's writes, if it is among ours, go through `wrap`'s engine."""
        if transport in self._engines:
            self._engines = {**self._engines, transport: wrap(self._engines[transport])}

    def choose(self, segments: Mapping[str, str], peer_identity: str) -> str:
        """The transport for writing to a peer with this address; the log tells it once with the reason.

        Raises: TransferError: when none is common.
        """
        same_host = peer_identity == self.host_identity
        transport = choose(self._engines, segments, same_host)
        where = "the same host" if same_host else "another host, PID namespace or set of GPUs"
        offers = f"{', '.join(self._engines)} here, {', '.join(segments) or 'none'} on {where}"
        if transport is None:
            raise TransferError(f"no common transport: {offers}")
        if segments[transport] not in self._peers_told:
            self._peers_told.add(segments[transport])
            log.info("KV cache for %s goes over %s, the best in common: %s", segments[transport], transport, offers)
        return transport

    def write(self, transport: str, segment: str, pieces: Sequence[Piece], wanted: Callable[[], bool] = always) -> None:
        """As `TransferEngine.write`, over the chosen transport."""
        self._engines[transport].write(segment, pieces, wanted)
