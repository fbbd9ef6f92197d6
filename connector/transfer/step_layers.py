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

    `spare_launches`: a GPU that has computed a layer before the next one is enqueued waits for vLLM's thread, and each
    callback takes Python's lock from that. Such layers are left to the next callback.
    """

    def __init__(
        self,
        layers: int,
        fences: "Fences",
        mark: Callable[[list[tuple[Held, int]], Sequence[int]], None],
        *,
        spare_launches: bool = False,
    ) -> None:
        self._layers = layers
        self._fences = fences
        self._mark = mark
        self._spare_launches = spare_launches
        self._stepping: list[tuple[Held, int]] = []
        self._streaming = False  # this step goes layer by layer
        self._hooked = 0  # layers of this step whose hook was called
        self._unmarked: list[int] = []  # of these
        self._hook: int | None = None  # the last of them
        self._last_hooked: int | None = None  # of the step before: some layers, like those of a state, have no hook

    def begin(self, stepping: list[tuple[Held, int]], *, layer_by_layer: bool) -> None:
        self._stepping = stepping
        self._streaming = layer_by_layer
        self._hooked, self._unmarked, self._hook = 0, [], None

    def computed(self, layer: int) -> None:
        if not self._stepping:
            return
        self._hooked += 1
        self._unmarked.append(layer)
        self._hook = layer
        # The last one now rather than after the logits and the sampling.
        last = layer == self._last_hooked or self._hooked == self._layers
        if last or (self._streaming and not (self._spare_launches and self._fences.caught_up())):
            self._fences.after(partial(self._mark, self._stepping, self._unmarked))
            self._unmarked = []

    def all_computed(self) -> None:
        if self._hook is not None:
            self._last_hooked = self._hook
        if self._stepping:
            self._fences.after(partial(self._mark, self._stepping, range(self._layers)))
