from collections.abc import Callable
from typing import Any

import pytest

from loadtest.settings import LoadTestSettings
from loadtest.workloads import ServedTokenizer, Workload, workload
from stack.configuration.environment import load
from tests.unit.loadtest.workloads.served import KINDS, MODEL, Target, Tokenizer

Make = Callable[..., Workload]


def of_every_kind(test: Any) -> Any:
    """Runs a test of token counts with every kind of tokenizer; others have the simplest."""
    return pytest.mark.parametrize("tokenizer", KINDS, indirect=True, scope="session")(test)


@pytest.fixture(scope="session")
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return KINDS[getattr(request, "param", "bytes")]()


@pytest.fixture
def target(tokenizer: Tokenizer) -> Target:
    return Target(tokenizer)


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LoadTestSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def make(target: Target) -> Make:
    """The workload with the given settings, for the target."""

    def made(name: str, **settings: Any) -> Workload:
        chosen = {f"loadtest_{setting}": value for setting, value in settings.items()}
        tokenizer = ServedTokenizer.of(target, MODEL)
        assert tokenizer.is_exact
        return workload(load(LoadTestSettings, loadtest_workload=name, **chosen), MODEL, tokenizer)

    return made
