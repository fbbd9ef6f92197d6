"""Settings that no variable of the surrounding shell reaches, a real etcd, and a producer's rank."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import connector.instance.registration  # noqa: F401  imports etcd3 without its warnings, before a test opens etcd
from stack.instances.settings import WITHOUT_EFFECT, LauncherSettings
from tests.unit.connector.transfer.producer_rank import Rank


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The least that a producer's launcher needs; tests set the rest."""
    for name in [*LauncherSettings.model_fields, *WITHOUT_EFFECT]:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("VLLM_DISTRIBUTED_KV_ROLE", "producer")
    monkeypatch.setenv("STACK_KEY", "0123456789abcdef")
    monkeypatch.setenv("VLLM_HOST_IP", "10.0.0.1")
    return monkeypatch


@pytest.fixture
def new_rank() -> Iterator[Callable[..., Rank]]:
    ranks: list[Rank] = []

    def make(**arguments: Any) -> Rank:
        ranks.append(Rank(**arguments))
        return ranks[-1]

    yield make
    for rank in ranks:
        for gate in rank.engine.gates.values():
            gate.opened.set()
        rank.producer.close()
        assert not any(sender.is_alive() for sender in rank.producer._senders._threads)
