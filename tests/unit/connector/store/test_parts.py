"""A batch for Mooncake's client, in parts of no more transfers than it queues."""

from collections.abc import Sequence

import pytest

from connector.store.moving.parts import TRANSFER_BYTES, TRANSFERS, in_parts

LAYERS = 30


class Client:
    """Keys are numbers; those of `failing` fail."""

    def __init__(self, failing: dict[int, int] | None = None) -> None:
        self.asked: list[range] = []
        self._failing = failing or {}

    def __call__(self, part: slice) -> Sequence[int]:
        keys = range(part.start, part.stop)
        self.asked.append(keys)
        return [self._failing.get(key, key) for key in keys]


def test_a_batch_is_asked_for_in_parts_that_fit_into_the_queue() -> None:
    client = Client()

    assert in_parts(client, [[48 << 10] * LAYERS] * 250) == list(range(250))
    assert [len(part) for part in client.asked] == [34] * 7 + [12]  # 34 keys are 1,020 transfers


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ([], []),
        ([[1]], [1]),
        ([[1]] * TRANSFERS, [TRANSFERS]),
        ([[1]] * (TRANSFERS + 1), [TRANSFERS, 1]),
        ([[1] * (TRANSFERS + 1)] * 2, [1, 1]),  # one key is not divided
        ([[TRANSFER_BYTES * TRANSFERS // 2]] * 4, [2, 2]),
        ([[TRANSFER_BYTES * TRANSFERS // 2 + 1]] * 2, [1, 1]),
        ([[0]] * 3, [3]),
    ],
)
def test_how_many_keys_are_in_each_part(sizes: list[list[int]], parts: list[int]) -> None:
    client = Client()

    assert in_parts(client, sizes) == list(range(len(sizes)))
    assert [len(part) for part in client.asked] == parts


def test_after_a_failure_no_other_part_is_waited_for() -> None:
    sizes = [[1] * TRANSFERS] * 4
    client = Client({1: -800, 3: -1})

    assert in_parts(client, sizes) == [0, -800, -800, -800]
    assert len(client.asked) == 2


def test_keys_of_a_part_that_came_well_have_come_whatever_the_others_did() -> None:
    assert in_parts(Client({1: -200}), [[1]] * 3) == [0, -200, 2]
