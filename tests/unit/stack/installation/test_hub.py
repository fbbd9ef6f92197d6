"""Which hub a model is asked of, and what for; the hubs' clients are stand-ins, as no hub is to be reached here."""

import sys
import types
from pathlib import Path

import pytest

from stack.installation import hub


@pytest.fixture(autouse=True)
def clients(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("huggingface_hub", "modelscope"):
        stand_in = types.SimpleNamespace(
            snapshot_download=lambda model, revision, hub=name, **how: f"/{hub}/{model}/{revision}/{' '.join(how)}"
        )
        monkeypatch.setitem(sys.modules, name, stand_in)


@pytest.mark.parametrize(
    ("choice", "client"),
    [("", "huggingface_hub"), ("False", "huggingface_hub"), ("True", "modelscope"), ("1", "modelscope")],
)
def test_the_hub_that_vllm_would_ask_is_asked(choice: str, client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_USE_MODELSCOPE", choice)

    assert hub.download("some/model") == Path(f"/{client}/some/model/None/ignore_patterns")
    assert hub.cached("some/model", "v2") == Path(f"/{client}/some/model/v2/local_files_only")
