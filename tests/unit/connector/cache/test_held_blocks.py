"""Blocks that are held for transfers only, and since when."""

from connector.cache.held_blocks import HeldBlocks


def test_the_oldest_hold_that_is_left_says_since_when() -> None:
    now = iter((100.0, 200.0, 300.0))
    held = HeldBlocks(lambda: next(now))
    assert (held.blocks, held.since) == (0, 0.0)
    for request, blocks in (("a", 4), ("b", 5)):
        held.add(request, blocks)
    assert (held.blocks, held.since) == (9, 100.0)
    held.remove("a")
    assert (held.blocks, held.since) == (5, 200.0)
    held.add("c", 1)
    held.remove("b")
    held.remove("unknown")
    assert (held.blocks, held.since) == (1, 300.0)
    held.remove("c")
    assert (held.blocks, held.since) == (0, 0.0)
