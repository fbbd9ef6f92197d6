"""Which layers of a step are computed. vLLM's hooks say it of most of them, and the GPU is behind the hooks."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from connector.transfer.held import Held

if TYPE_CHECKING:
    from connector.mooncake.fences import Fences


class StepLayers:
    """`mark` gets the prompts of a step, each with the token up to which the step computes it, and layers of which that
    is so: now or, on a GPU, in a thread of the fences.
    """

    def __init__(
        self, layers: int, fences: "Fences", mark: Callable[[list[tuple[Held, int]], Sequence[int]], None]
    ) -> None:
        self._layers = layers
        self._fences = fences
        self._mark = mark
        self._stepping: list[tuple[Held, int]] = []
        self._streaming = False  # this step goes layer by layer
        self._hooked: list[int] = []  # layers of this step whose hook was called, in that order
        self._last_hooked: int | None = None  # of the step before: some layers, like those of a state, have no hook

    def begin(self, stepping: list[tuple[Held, int]], *, layer_by_layer: bool) -> None:
        self._stepping = stepping
        self._streaming = layer_by_layer
        self._hooked = []

    def computed(self, layer: int) -> None:
        if not self._stepping:
            return
        self._hooked.append(layer)
        if self._streaming:
            self._fences.after(partial(self._mark, self._stepping, [layer]))
        elif layer == self._last_hooked or len(self._hooked) == self._layers:
            # Now rather than after the logits and the sampling.
            self._fences.after(partial(self._mark, self._stepping, list(self._hooked)))

    def all_computed(self) -> None:
        if self._hooked:
            self._last_hooked = self._hooked[-1]
        if self._stepping:
            self._fences.after(partial(self._mark, self._stepping, range(self._layers)))
