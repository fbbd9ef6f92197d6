"""How much of a transfer is exposed: what is not hidden behind the computation of the prompt."""

import pytest

from planner.simulation.costs import TransferCosts
from planner.simulation.transfer import Link, Transfer

COSTS = TransferCosts(bytes_per_token=10.0, bytes_per_s=1000.0, latency_s=0.5, layers=4)


def moved(*pieces: tuple[float, float, int, int], link: Link, held: int = 0, room_at: float = 0.0) -> Transfer:
    transfer = Transfer(COSTS, link)
    transfer.room(room_at, held)
    for piece in pieces:
        transfer.computed(*piece)
    return transfer


def test_a_fast_link_leaves_the_last_layer() -> None:
    """Either piece takes 1 s of the link, less than its step: a quarter of it and the latency come behind."""
    transfer = moved((0.0, 2.0, 0, 100), (2.0, 4.0, 100, 200), link=Link())
    assert transfer.there_at == pytest.approx(4.0 + 0.5 + 0.25)


def test_a_slow_link_is_behind_all_along() -> None:
    transfer = moved((0.0, 1.0, 0, 300), (1.0, 2.0, 300, 600), link=Link())
    assert transfer.there_at == pytest.approx(6.0)


def test_nothing_is_sent_before_there_is_room() -> None:
    transfer = Transfer(COSTS, Link())
    transfer.computed(0.0, 2.0, 0, 100)
    transfer.room(10.0, 0)
    assert transfer.there_at == pytest.approx(11.0)


def test_what_the_consumer_holds_is_not_sent() -> None:
    transfer = moved((0.0, 2.0, 0, 100), (2.0, 4.0, 100, 200), link=Link(), held=150)
    assert transfer.moved == 50
    assert transfer.there_at == pytest.approx(4.0 + 0.5 + 0.125)


def test_what_is_computed_again_is_not_sent_again() -> None:
    transfer = moved((0.0, 2.0, 0, 100), (5.0, 7.0, 0, 100), (7.0, 9.0, 100, 120), link=Link())
    assert transfer.moved == 120


def test_prompts_of_one_producer_share_its_link() -> None:
    link = Link()
    moved((0.0, 1.0, 0, 300), link=link)
    assert moved((1.0, 2.0, 0, 100), link=link).there_at == pytest.approx(4.0)
