"""What a scheduler measured of the store since the last engine step; `metrics` carries it to Prometheus.

How long calls to Mooncake take, and how many bytes and keys they move, vLLM's connector measures itself, in each rank.
"""

from typing import Literal

from connector.telling.measured import Measured

Lookup = Literal["hit", "miss", "late", "left"]
Load = Literal["loaded", "failed", "late"]
LOOKUPS: tuple[Lookup, ...] = ("hit", "miss", "late", "left")
LOADS: tuple[Load, ...] = ("loaded", "failed", "late")
BREAKERS = ("lookups", "loads")


class StoreStats(Measured):
    """Results become labels."""

    def looked_up(self, result: Lookup) -> None:
        """late: no answer within the budget, or an error; left: not asked, because the store fails, or not used."""
        self._count(("lookups", result, 1))

    def load_ended(self, result: Load, tokens: int) -> None:
        """late: it took too long. `tokens`: of the prompt, for which it was begun."""
        self._count(("loads", result, 1), ("loaded_tokens", tokens if result == "loaded" else 0))

    def saves_left_out(self, saves: int) -> None:
        if saves:
            self._count(("saves_left_out", saves))

    def breaker(self, name: str, *, is_open: bool) -> None:
        self._set("breaker_open", name, int(is_open))
