"""Which layers of a step go together, by how far the GPU is behind."""

from collections.abc import Callable, Iterable, Sequence

import pytest

from connector.transfer.held import Held
from connector.transfer.prompt import Prompt
from connector.transfer.step_layers import StepLayers
from tests.unit.connector.fake_layouts import SOURCE

ALL = list(range(5))
PROMPT = Held("t", Prompt(SOURCE), deadline=0.0)


class ScriptedFences:
    """`caught_up` answers in turn; callbacks run at once."""

    def __init__(self, caught_up: Iterable[bool]) -> None:
        self._caught_up = iter(caught_up)

    def after(self, callback: Callable[[], None]) -> None:
        callback()

    def drain(self) -> None:
        pass

    def caught_up(self) -> bool:
        return next(self._caught_up)


def marked(caught_up: Iterable[bool], *, spare_launches: bool, layer_by_layer: bool = True) -> list[list[int]]:
    """Layers of a step of `ALL` as they were marked, without the step's end."""
    marks: list[list[int]] = []

    def mark(stepped: list[tuple[Held, int]], layers: Sequence[int]) -> None:
        assert stepped == [(PROMPT, 7)]
        marks.append(list(layers))

    step = StepLayers(len(ALL), ScriptedFences(caught_up), mark, spare_launches=spare_launches)
    step.begin([(PROMPT, 7)], layer_by_layer=layer_by_layer)
    for layer in ALL:
        step.computed(layer)
    step.all_computed()
    assert marks.pop() == ALL
    return marks


@pytest.mark.parametrize(
    ("caught_up", "together"),
    [
        ([False] * 4, [[0], [1], [2], [3], [4]]),  # the GPU is behind: no layer waits for another
        ([True] * 4, [ALL]),  # it waits for launches: nothing is done between them
        ([True, True, False, False], [[0, 1, 2], [3], [4]]),
        ([False, True, True, False], [[0], [1, 2, 3], [4]]),
    ],
)
def test_layers_wait_while_the_gpu_waits(caught_up: list[bool], together: list[list[int]]) -> None:
    assert marked(caught_up, spare_launches=True) == together


def test_each_layer_by_itself_where_moving_takes_longer() -> None:
    assert marked([], spare_launches=False) == [[layer] for layer in ALL]


def test_a_short_step_asks_nothing() -> None:
    assert marked([], spare_launches=True, layer_by_layer=False) == [ALL]


def test_the_next_step_begins_anew() -> None:
    marks: list[list[int]] = []
    fences = ScriptedFences([True, True, False, False])
    step = StepLayers(4, fences, lambda stepped, layers: marks.append(list(layers)), spare_launches=True)
    for _ in range(2):
        step.begin([(PROMPT, 7)], layer_by_layer=True)
        step.computed(0)
        step.computed(1)  # preempted, say: no more hooks in this step, and two layers without any
        step.all_computed()
    # The hook that was the last one of the first step is known to be that in the second.
    assert marks == [[0, 1, 2, 3], [0], [1], [0, 1, 2, 3]]
