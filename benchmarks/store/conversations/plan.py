"""What one comparison measures and in which order, and what starts each of its sides.

Every measurement has a stack of its own, so that all of them begin with empty caches. The control, which is the first
side again, is the last: what a machine becomes slower or faster by meanwhile is in it. Every other repeat goes
backwards.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.store.conversations.loads import Load
from benchmarks.whole_stack import resuming

OFF, STORE, AGAIN = "no store", "store", "no store again"
SIDES = (OFF, STORE, AGAIN)
# What a run depends on beside the stack and the load test.
CODE = tuple(f"benchmarks/store/conversations/{name}.py" for name in ("loads", "counters"))


@dataclass(frozen=True)
class Measurement:
    """One headless run of the load test on a stack that has just started. `cache_bytes`: of each instance."""

    repeat: int
    cache_bytes: int
    side: str
    seed: int

    @property
    def folder(self) -> str:
        return f"{self.repeat}-{self.cache_bytes}-{self.side.replace(' ', '-')}"

    def __str__(self) -> str:
        return f"{self.side}, caches of {self.cache_bytes >> 20} MiB"


@dataclass(frozen=True)
class Plan:
    """`variables`: what the user set of the stack's."""

    load: Load
    caches: tuple[int, ...]
    repeats: int
    seed: int
    store_bytes: int
    max_model_len: int
    variables: Mapping[str, str]

    def measurements(self) -> list[Measurement]:
        return list(self._measurements())

    def _measurements(self) -> Iterator[Measurement]:
        for repeat in range(self.repeats):
            forth = [(cache, side) for cache in self.caches for side in SIDES]
            for cache, side in forth if repeat % 2 == 0 else reversed(forth):
                yield Measurement(repeat, cache, side, self.seed + repeat)

    def conditions(self) -> dict[str, Any]:
        return {
            **self.load.conditions(),
            "caches": list(self.caches),
            "repeats": self.repeats,
            "seed": self.seed,
            "store_bytes": self.store_bytes,
            "max_model_len": self.max_model_len,
            "variables": dict(sorted(self.variables.items())),
        }

    def fingerprint(self, code: str) -> str:
        return resuming.fingerprint(self.conditions(), code)

    def variables_of(self, measurement: Measurement) -> dict[str, str]:
        """Of the stack. No side is told of a store that somebody else runs."""
        return {
            "KV_CACHE_BYTES": str(measurement.cache_bytes),
            "MAX_MODEL_LEN": str(self.max_model_len),
            "STORE_BYTES": str(self.store_bytes),
            "STACK_STORE": "true" if measurement.side == STORE else "false",
            "STORE_MASTER": "",
        }
