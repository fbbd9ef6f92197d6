"""A prompt's KV cache on its way: each piece is sent while it is computed, so that only its tail is waited for.

A piece cannot be sent before the consumer has room for it, before the one ahead of it, or while the sender's link is
taken. It has come when its bytes have, and not before its last layer, computed at the end of its step, has been sent.
"""

from dataclasses import dataclass

from planner.simulation.costs import TransferCosts


@dataclass(slots=True)
class Link:
    """Of one producer; transfers of several prompts share it."""

    free_at: float = 0.0


class Transfer:
    """held: tokens of the prompt that the consumer has already, unset: it has no room yet. moved: tokens on their way,
    or there."""

    def __init__(self, costs: TransferCosts, link: Link) -> None:
        self.moved = 0
        self.there_at = 0.0
        self._costs = costs
        self._link = link
        self._held: int | None = None
        self._room_at = 0.0
        self._pieces: list[tuple[float, float, int, int]] = []
        self._reached = 0  # what is computed again after a preemption is not sent again

    @property
    def has_room(self) -> bool:
        return self._held is not None

    def room(self, now: float, held: int) -> None:
        self._room_at, self._held = now, held
        pieces, self._pieces = self._pieces, []
        for piece in pieces:
            self._send(*piece)

    def computed(self, began: float, ended: float, begin: int, end: int) -> None:
        """Tokens `begin` to `end` of the prompt, in a step from `began` to `ended`."""
        if self._held is None:
            self._pieces.append((began, ended, begin, end))
        else:
            self._send(began, ended, begin, end)

    def _send(self, began: float, ended: float, begin: int, end: int) -> None:
        begin = max(begin, self._held or 0, self._reached)
        tokens = max(0, end - begin)
        self._reached = max(self._reached, end)
        costs = self._costs
        lasts_s = tokens * costs.bytes_per_token / costs.bytes_per_s
        whole = max(began, self._room_at, self._link.free_at) + lasts_s
        self._link.free_at = whole
        last_layer = max(ended, self._room_at) + costs.latency_s + lasts_s / costs.layers
        self.there_at = max(self.there_at, whole, last_layer)
        self.moved += tokens
