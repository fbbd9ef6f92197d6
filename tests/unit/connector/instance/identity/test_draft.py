"""Which drafts keep instances from pairing: those that have a cache, and are not the same on both sides."""

import json
from pathlib import Path

import pytest

from connector.instance.identity.draft import facts_of
from tests.unit.connector.instance.identity.made_models import model_folder, safetensors, scaled, some_tensors

TENSORS = some_tensors()


def option(**config: object) -> list[str]:
    return ["--speculative-config", json.dumps(config)]


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "draft", TENSORS)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--max-num-seqs", "4"],
        option(method="ngram", num_speculative_tokens=3),
        option(model="[ngram]", num_speculative_tokens=3),
        option(method="suffix"),
        ["--speculative-config.method", "ngram"],
        ["--spec-method=ngram", "--spec-tokens", "3"],
        ["-sc", "no JSON"],  # vLLM says so
    ],
    ids=" ".join,
)
def test_without_a_cache_there_is_nothing_to_have_in_common(words: list[str]) -> None:
    assert facts_of(words) == {}


def test_one_draft_however_it_is_given(draft: Path, tmp_path: Path) -> None:
    copy = str(model_folder(tmp_path / "copy", TENSORS))
    spelled = [
        option(method="eagle", model=str(draft), num_speculative_tokens=3),
        option(model=copy, num_speculative_tokens=1),
        ["-sc", json.dumps({"model": copy})],
        [f"--speculative_config={json.dumps({'model': copy})}"],
        ["--speculative-config.model", copy, "--speculative-config.num-speculative-tokens", "2"],
        ["--spec-model", copy],
    ]
    found = [facts_of(words) for words in spelled]
    assert found == [{"draft": found[0]["draft"]}] * len(spelled)


def test_another_draft(draft: Path) -> None:
    words = option(model=str(draft))
    before = facts_of(words)
    assert facts_of(option(model=str(draft), quantization="fp8")) != before
    safetensors(draft / "model.safetensors", {name: scaled(tensor) for name, tensor in TENSORS.items()})
    assert facts_of(words) != before


def test_modules_of_the_model_itself() -> None:
    """Its weights are the model's, which is compared by itself."""
    words = option(method="mtp", num_speculative_tokens=1)
    assert facts_of(words) == {"draft": "part of the model"}
    assert facts_of(option(method="deepseek_mtp", num_speculative_tokens=2)) == facts_of(words)
