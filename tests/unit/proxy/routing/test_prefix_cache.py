"""What an instance is thought to hold: leading blocks only, bounded, the least recently used forgotten first."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.request.prompt import Block
from proxy.routing.prefix_cache import PrefixCache


def blocks(name: str, count: int) -> list[Block]:
    """The digests of one prompt: none occurs in another prompt."""
    return [f"{name}{number}".encode() for number in range(count)]


def test_leading_blocks_match() -> None:
    cache = PrefixCache(10)
    cache.insert(blocks("a", 3))
    assert cache.matched(blocks("a", 2)) == 2
    assert cache.matched([*blocks("a", 3), b"new"]) == 3
    assert cache.matched(blocks("b", 3)) == 0
    assert cache.matched([]) == 0


def test_the_least_recently_used_prompt_makes_room_from_its_end() -> None:
    cache = PrefixCache(6)
    cache.insert(blocks("a", 3))
    cache.insert(blocks("b", 3))
    cache.insert(blocks("a", 1))
    cache.insert(blocks("c", 2))
    assert [cache.matched(blocks(name, 3)) for name in "abc"] == [1, 3, 2]


def test_a_prompt_larger_than_the_cache_leaves_its_beginning() -> None:
    cache = PrefixCache(4)
    cache.insert(blocks("a", 9))
    assert cache.matched(blocks("a", 9)) == 4


CONVERSATIONS: list[list[Block]] = [
    [b"s", b"a1", b"a2", b"a3"],
    [b"s", b"a1", b"b2"],
    [b"s", b"c1"],
    blocks("d", 6),
]
PROMPTS = st.sampled_from([prompt[:end] for prompt in CONVERSATIONS for end in range(1, len(prompt) + 1)])


@given(st.integers(1, 8), st.lists(PROMPTS, max_size=30))
def test_what_is_held_is_bounded_and_has_no_gaps(capacity: int, prompts: list[list[Block]]) -> None:
    cache = PrefixCache(capacity)
    for prompt in prompts:
        cache.insert(prompt)
        assert len(cache) <= capacity
        assert cache.matched(prompt) == min(len(prompt), capacity)
        for known in CONVERSATIONS:
            held = [cache.matched([block]) for block in known]
            assert held == sorted(held, reverse=True), "a block without one that precedes it"
            assert cache.matched(known) == sum(held)
