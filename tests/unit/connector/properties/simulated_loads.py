"""What a consumer's rank waits for, and what it has heard of it: until when it may be written into."""

from dataclasses import dataclass, field

from connector.cache.heads import Source
from connector.cache.layout import KVLayout
from connector.control.messages import Done, Failed, Outcome
from connector.scheduling.steps import Load
from connector.transfer.consumer import LAST_BYTES_S
from tests.unit.connector.properties.simulated_cache import memory_of

TIMEOUT_S, CANCEL_TIMEOUT_S = 60.0, 35.0
START = 64


class Arrived:
    """The consumer's memory; every byte tells where it is."""

    def __init__(self, layout: KVLayout) -> None:
        self._bytes = bytes(at % 251 for at in range(len(memory_of(layout, START))))

    def read(self, address: int, length: int) -> memoryview:
        found = memoryview(self._bytes)[address - START : address - START + length]
        assert len(found) == length
        return found


class Clock:
    """`awake`: without standstills."""

    real, awake = 1000.0, 0.0

    def monotonic(self) -> float:
        return self.real


@dataclass
class Transfer:
    load: Load
    sources: list[Source]
    proofs: dict[int, int]  # checksum that each rank of the producer must name
    begun: bool = False
    aborted: bool = False
    cancelled: float | None = None  # when the producer was told to stop
    believed: dict[int, Outcome] = field(default_factory=dict)  # the first answer of each rank
    answered: float | None = None  # since when
    forgotten: bool = False  # the scheduler's word came too long after the first answer
    gone: dict[int, float] = field(default_factory=dict)
    silent: dict[int, float] = field(default_factory=dict)
    reported: bool = False

    def may_be_written(self, rank: int, now: float, segments: dict[str, str]) -> bool:
        """By a producer that writes into the memory's `segments`, while those have not been replaced."""
        word = self.believed.get(rank)
        if isinstance(word, Done) or (word is not None and not word.unended):
            return False
        if rank in self.gone and now > self.gone[rank] + LAST_BYTES_S:
            return self.segments["tcp"] == segments["tcp"]
        patient = [since for since in (self.cancelled, self.silent.get(rank)) if since is not None]
        if word is None and not any(now >= since + CANCEL_TIMEOUT_S for since in patient):
            return True
        return any(self.segments[transport] == segments[transport] for transport in segments)

    @property
    def segments(self) -> dict[str, str]:
        return self.load.registrations[0][0].segments

    @property
    def delivered(self) -> int:
        """Blocks of the first group that have surely arrived from every rank; all of them where all groups have."""
        parts = []
        for source in self.sources:
            match self.believed.get(source.rank):
                case Done(checksum=checksum) if checksum in (None, self.proofs[source.rank]):
                    parts.append(len(self.load.block_ids[0]))
                case Failed(delivered_blocks=blocks):
                    parts.append(blocks)
                case _:
                    parts.append(0)
        return min(parts)

    @property
    def whole(self) -> bool:
        words = [self.believed.get(source.rank) for source in self.sources]
        return all(isinstance(word, Done) and word.checksum in (None, self.proofs[word.rank]) for word in words)
