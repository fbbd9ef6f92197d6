"""Every piece is accounted for: arrived, failed, or still in flight when the time is over."""

import threading

import pytest

from connector.cache.pieces import Piece
from connector.mooncake import polled_write
from connector.mooncake.polled_write import LONGEST_PIECE, Slots

ARRIVED, FAILED = 1, -1


class ScriptedEngine:
    """Pieces end when the script says so: `statuses` by the piece's source address, each a list of answers to `check`;
    the last one stays."""

    def __init__(self, statuses: dict[int, list[int]]) -> None:
        self.statuses = statuses
        self.posted: list[Piece] = []
        self.ended: set[int] = set()
        self.most_in_flight = 0

    def post(self, piece: Piece) -> int:
        if piece.source in self.statuses and not self.statuses[piece.source]:
            return 0
        self.posted.append(piece)
        self.most_in_flight = max(self.most_in_flight, len(self.posted) - len(self.ended))
        return len(self.posted)

    def check(self, number: int) -> int:
        assert number not in self.ended, "Mooncake has freed it"
        answers = self.statuses.get(self.posted[number - 1].source, [ARRIVED])
        status = answers.pop(0) if len(answers) > 1 else answers[0]
        if status:
            self.ended.add(number)
        return status


SLOTS = 8  # of which one write alone takes four


@pytest.fixture
def slots() -> Slots:
    return Slots(SLOTS)


def pieces(count: int) -> list[Piece]:
    return [Piece(number, 1000 + number, 1) for number in range(count)]


def write(engine: ScriptedEngine, todo: list[Piece], slots: Slots, timeout: float = 60) -> str:
    unwritten = polled_write.write(engine.post, engine.check, todo, slots, timeout)
    assert slots._free == SLOTS, "every slot is free again"
    return str(unwritten) if unwritten else "all arrived"


def test_all_arrive_and_no_more_are_in_flight_than_the_slots_allow(slots: Slots) -> None:
    engine = ScriptedEngine({3: [0, 0, 0, ARRIVED], 7: [0, ARRIVED]})
    assert write(engine, pieces(100), slots) == "all arrived"
    assert engine.posted == pieces(100)
    assert engine.most_in_flight == 4


def test_writes_to_one_peer_share_and_none_goes_without() -> None:
    slots = Slots(64)
    held = [0, 0, 0]
    for _ in range(64):
        held = [count + slots.take(count) for count in held]
    assert held == [16, 16, 16]
    slots, held = Slots(64), [0, 0]
    while slots.take(held[0]):
        held[0] += 1
    while slots.take(held[1]):
        held[1] += 1
    assert held == [32, 16]
    slots.give_back()
    assert not slots.take(held[0] - 1), "the first makes room for the second"
    assert slots.take(held[1])


def test_it_waits_for_slots_that_other_writes_hold_longer_than_its_own_pieces_may_take(slots: Slots) -> None:
    for _ in range(SLOTS):
        assert slots.take(0)
    engine = ScriptedEngine({})

    def give_back() -> None:
        for _ in range(SLOTS):
            slots.give_back()

    other = threading.Timer(0.1, give_back)
    other.start()
    assert write(engine, pieces(3), slots, timeout=0.01) == "all arrived"
    other.join()


def test_after_a_failure_nothing_is_posted_but_what_was_is_awaited(slots: Slots) -> None:
    engine = ScriptedEngine({1: [FAILED], 3: [0, 0, 0, 0, ARRIVED]})
    assert write(engine, pieces(10), slots) == "1 failed, 0 did not end, 6 not posted"
    assert engine.ended == {1, 2, 3, 4}


def test_what_nobody_wants_any_more_is_not_posted_but_what_was_is_awaited(slots: Slots) -> None:
    engine = ScriptedEngine({0: [0, 0, ARRIVED]})
    unwritten = polled_write.write(engine.post, engine.check, pieces(9), slots, 60, lambda: len(engine.posted) < 2)
    assert str(unwritten) == "0 failed, 0 did not end, 7 not posted"
    assert engine.ended == {1, 2}
    assert slots._free == SLOTS


def test_a_piece_that_is_refused(slots: Slots) -> None:
    engine = ScriptedEngine({2: []})
    assert write(engine, pieces(4), slots) == "1 failed, 0 did not end, 1 not posted"
    assert len(engine.ended) == 2


def test_what_does_not_end_is_given_up_and_counted(slots: Slots) -> None:
    engine = ScriptedEngine({1: [0], 2: [FAILED], 3: [0]})
    assert write(engine, pieces(6), slots, timeout=0.05) == "1 failed, 2 did not end, 1 not posted"


def test_long_pieces_are_cut(slots: Slots) -> None:
    engine = ScriptedEngine({})
    assert write(engine, [Piece(0, 1 << 40, 2 * LONGEST_PIECE + 5), Piece(7, 9, 0)], slots) == "all arrived"
    assert engine.posted == [
        Piece(0, 1 << 40, LONGEST_PIECE),
        Piece(LONGEST_PIECE, (1 << 40) + LONGEST_PIECE, LONGEST_PIECE),
        Piece(2 * LONGEST_PIECE, (1 << 40) + 2 * LONGEST_PIECE, 5),
    ]
