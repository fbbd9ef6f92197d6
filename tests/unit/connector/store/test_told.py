"""A producer's answer says to the proxy how much of a prompt came from the store, and to nobody else."""

from connector.store.told import LoadedTokens

PREFILL = {"do_remote_decode": True, "transfer_id": "t"}


def test_what_was_loaded_is_told_to_the_proxy() -> None:
    loaded = LoadedTokens()
    loaded.begins("a", 1984)
    assert loaded.ended("a", PREFILL) == {"store_tokens": 1984}
    assert loaded.ended("b", PREFILL) == {"store_tokens": 0}, "nothing was found"


def test_a_load_that_failed_has_brought_nothing() -> None:
    loaded = LoadedTokens()
    loaded.begins("a", 1984)
    loaded.failed("a")
    loaded.failed("b")
    assert loaded.ended("a", PREFILL) == {"store_tokens": 0}


def test_of_two_loads_of_a_preempted_request_the_last_counts() -> None:
    loaded = LoadedTokens()
    loaded.begins("a", 1984)
    loaded.begins("a", 64)
    assert loaded.ended("a", PREFILL) == {"store_tokens": 64}


def test_an_answer_to_somebody_else_says_nothing_and_nothing_is_kept_of_its_request() -> None:
    loaded = LoadedTokens()
    for asked in (None, {}, {"do_remote_prefill": True}):
        loaded.begins("a", 1984)
        assert loaded.ended("a", asked) is None
    assert loaded.ended("a", PREFILL) == {"store_tokens": 0}
