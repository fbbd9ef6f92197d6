"""The facts of a model, from folders, hubs and vLLM's own arguments: which are equal, and which one differs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from connector.instance.identity.model import adapter_identity, deciding_options, facts_of
from connector.instance.identity.weights import weights_in
from stack.installation import hub
from tests.unit.connector.instance.identity.made_models import model_folder, safetensors, scaled, some_tensors

TENSORS = some_tensors()
OTHER = TENSORS | {"layers.1.q_proj": scaled(TENSORS["layers.1.q_proj"])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "original", TENSORS)


def differing(one: dict[str, str], other: dict[str, str]) -> set[str]:
    return {name for name in one | other if one.get(name) != other.get(name)}


def test_a_copy_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    facts = facts_of(str(folder), [])
    assert set(facts) == {"configuration", "weights", "tokenizer"}
    assert facts == facts_of(str(model_folder(tmp_path / "elsewhere", TENSORS)), [])
    assert all(len(fact) == 16 for fact in facts.values())


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda folder: safetensors(folder / "model.safetensors", OTHER), "weights"),
        (write("config.json", '{"hidden_size": 577}'), "configuration"),
        (write("config.json", "no JSON"), "configuration"),
        (write("tokenizer.json", '{"model": {"vocab": {"b": 0}}}'), "tokenizer"),
        (write("preprocessor_config.json", '{"image_mean": [0.5]}'), "other files"),
        (write("hf_quant_config.json", "{}"), "other files"),
        (write("quantize_config.json", "{}"), "other files"),
        (write("generation_config.json", '{"temperature": 0.6}'), "sampling defaults"),
    ],
)
def test_what_makes_it_another_model(folder: Path, change: Callable[[Path], object], fact: str) -> None:
    before = facts_of(str(folder), [])
    change(folder)
    assert differing(before, facts_of(str(folder), [])) == {fact}


@pytest.mark.parametrize("name", ["chat_template.jinja", "README.md", "script.py"])
def test_what_does_not(folder: Path, name: str) -> None:
    before = facts_of(str(folder), [])
    (folder / name).write_text("something else")
    assert facts_of(str(folder), []) == before


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        ("--quantization fp8", {"--quantization"}),
        ("-q=fp8", {"--quantization"}),
        ("--kv_cache_dtype fp8", {"--kv-cache-dtype"}),
        ("--hf-overrides.rope_theta 5", {"--hf-overrides.rope-theta"}),
        ("--load-format dummy", {"--load-format", "weights"}),
        ("--hf-config-path elsewhere", {"--hf-config-path"}),
        ('--override-generation-config {"temperature":0}', {"--override-generation-config"}),
        ("--max-model-len 2048 --max-num-seqs=4 --seed 3", set()),
    ],
)
def test_vllms_own_arguments_count(folder: Path, words: str, facts: set[str]) -> None:
    assert differing(facts_of(str(folder), []), facts_of(str(folder), words.split())) == facts


def test_defaults_of_sampling_are_what_vllm_takes_them_from(folder: Path, tmp_path: Path) -> None:
    """The first token is the producer's: one that samples by other defaults gives another server's answers."""
    without = facts_of(str(folder), [])
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "transformers_version": "5.0"}')
    own = facts_of(str(folder), [])
    assert differing(without, own) == {"sampling defaults"}
    assert facts_of(str(folder), ["--generation-config", "auto"]) == own
    assert facts_of(str(folder), ["--generation-config=vllm"]) == without
    other = tmp_path / "other"
    other.mkdir()
    (other / "generation_config.json").write_text('{"temperature": 0.6, "transformers_version": "5.1"}')
    assert facts_of(str(folder), ["--generation-config", str(other)]) == own
    (other / "generation_config.json").write_text('{"temperature": 0.7}')
    assert differing(facts_of(str(folder), ["--generation-config", str(other)]), own) == {"sampling defaults"}


def test_the_last_of_equal_options_counts() -> None:
    assert deciding_options(["--dtype", "a", "--dtype=b"]) == {"--dtype": "b"}
    assert deciding_options(["--dtype"]) == {"--dtype": ""}


def test_another_model_or_tokenizer_given_to_vllm_is_the_one(folder: Path, tmp_path: Path) -> None:
    other = model_folder(tmp_path / "other", OTHER)
    (other / "tokenizer.json").write_text("{}")
    assert facts_of(str(folder), ["--model", str(other)]) == facts_of(str(other), [])
    assert differing(facts_of(str(folder), ["--tokenizer", str(other)]), facts_of(str(folder), [])) == {"tokenizer"}


def test_code_of_a_model_counts_where_it_is_run(folder: Path) -> None:
    before = facts_of(str(folder), ["--trust-remote-code"])
    (folder / "modeling.py").write_text("pass")
    assert differing(before, facts_of(str(folder), ["--trust-remote-code"])) == {"other files"}


def test_the_files_that_vllm_would_load(folder: Path) -> None:
    (whole,) = weights_in(folder)
    parts = [safetensors(folder / f"model-{n}-of-2.safetensors", TENSORS) for n in (1, 2)]
    for other in ("consolidated.safetensors", "pytorch_model.bin", "original.pt"):
        safetensors(folder / other, TENSORS)
    assert weights_in(folder) == [folder / "consolidated.safetensors"]
    (folder / "consolidated.safetensors").unlink()
    assert weights_in(folder) == [*parts, whole]
    weight_map = {"embed": parts[0].name, "norm": parts[1].name}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert weights_in(folder) == parts
    assert weights_in(folder, "pt") == [folder / "original.pt"]
    for file in folder.glob("*.safetensors"):
        file.unlink()
    assert weights_in(folder) == [folder / "pytorch_model.bin"]
    assert weights_in(folder / "original.pt") == [folder / "original.pt"]
    assert weights_in(folder / "nowhere") == []


def test_a_hubs_model_is_what_lies_in_its_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def download(model: str, revision: str | None = None) -> Path:
        asked.append((model, revision))
        return folder

    monkeypatch.setattr(hub, "download", download)
    assert facts_of("some/model", []) == facts_of("some/model", ["--revision", "v2"]) == facts_of(str(folder), [])
    assert asked == [("some/model", None), ("some/model", "v2")]


def test_a_hub_that_is_away_leaves_the_name(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def download(model: str, revision: str | None = None) -> Path:
        raise OSError("no way out")

    monkeypatch.setattr(hub, "download", download)
    assert facts_of("some/model", ["--revision=v2"]) == {"model": "some/model", "weights": "unknown"}
    assert "some/model: its weights are not known" in caplog.text


def test_a_folder_that_is_not_there_is_nobodys_id() -> None:
    assert facts_of("/no/such/folder", []) == {"model": "/no/such/folder", "weights": "unknown"}


def test_adapters_are_told_apart_by_their_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, copy, other, config = (tmp_path / name for name in ("one", "copy", "other", "config"))
    one.mkdir()
    (one / "adapter_config.json").write_text('{"r": 8}')
    safetensors(one / "adapter_model.safetensors", TENSORS)
    for folder in (copy, other, config):
        shutil.copytree(one, folder)
    safetensors(other / "adapter_model.safetensors", OTHER)
    (config / "adapter_config.json").write_text('{"r": 4}')
    identities = [adapter_identity(str(folder)) for folder in (one, copy, other, config)]
    assert identities[0] == identities[1]
    assert len(set(identities)) == 3
    monkeypatch.setattr(hub, "cached", lambda model: other)
    assert adapter_identity("some/adapter") == identities[2]
    assert adapter_identity("/no/such/folder") == "/no/such/folder"
