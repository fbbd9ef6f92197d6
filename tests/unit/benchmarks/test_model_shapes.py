"""Shapes of models: which there are, the folder that vLLM gets, the options they set, and how weights are spread."""

import json
from pathlib import Path

import pytest

from benchmarks.connector.options import parse
from benchmarks.connector.prompts import TOKENS
from benchmarks.connector.topology import servers
from benchmarks.errors import CannotStart
from benchmarks.model_shapes import folder
from benchmarks.model_shapes.bounds import WORKER_EXTENSION, bounds
from benchmarks.model_shapes.full import Config
from benchmarks.model_shapes.shapes import FULL, NAMES, TINY
from stack.configuration.settings import REPOSITORY

EVERY = [pytest.param(shape.config, id=f"{name}, full") for name, shape in FULL.items()]
EVERY += [pytest.param(shape.config, id=f"{name}, tiny") for name, shape in TINY.items()]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    made = tmp_path / "tokenizer"
    made.mkdir()
    (made / "tokenizer_config.json").write_text("{}")
    own = {"model": {"vocab": {"a": 0, "b": 2}}, "added_tokens": [{"id": 1, "content": "<s>"}]}
    (made / "tokenizer.json").write_text(json.dumps(own))
    return made


@pytest.mark.parametrize("config", EVERY)
def test_every_token_has_a_text_and_every_prompt_a_vocabulary(config: Config, tokenizer: Path, tmp_path: Path) -> None:
    made = folder.write(config, tmp_path / "model", tokenizer)
    assert json.loads((made / "config.json").read_text()) == config
    vocabulary = json.loads((made / "tokenizer.json").read_text())["model"]["vocab"]
    assert vocabulary["a"] == 0
    # Every id that the model may choose has a text, and the added token keeps its own.
    assert sorted({*vocabulary.values(), 1}) == list(range(config["vocab_size"]))
    assert 1 not in vocabulary.values()
    assert TOKENS.stop <= config["vocab_size"]


@pytest.mark.parametrize("config", EVERY)
def test_each_layer_has_one_type(config: Config) -> None:
    if "layer_types" in config:
        assert len(config["layer_types"]) == config["num_hidden_layers"]
        assert len(set(config["layer_types"])) == 2


def test_a_tiny_shape_keeps_what_its_cache_is_like() -> None:
    for name, tiny in TINY.items():
        for key in ("architectures", "model_type", "sliding_window", "linear_key_head_dim", "conv_kernel"):
            assert tiny.config.get(key) == FULL[name].config.get(key), (name, key)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match=r"nothing': expected a folder with the tokenizer\.json of a model"):
        folder.write(FULL[NAMES[0]].config, tmp_path / "model", tmp_path / "nothing")


@pytest.mark.parametrize(
    ("words", "shape", "scale"),
    [
        (["--profile", "gpu"], "qwen2.5-7b", "full"),
        (["--profile", "gpu", "--model-shape", "gemma-3-12b"], "gemma-3-12b", "full"),
        (["--profile", "gpu", "--model-shape", "gemma-3-12b", "--shape-scale", "tiny"], "gemma-3-12b", "tiny"),
        (["--model-shape", "nemotron-h"], "nemotron-h", "tiny"),
        (["--profile", "gpu", "--model", "/model"], "", "full"),
        ([], "", "tiny"),
    ],
)
def test_the_scale_is_that_of_the_machine(words: list[str], shape: str, scale: str) -> None:
    options = parse(["latency", *words])
    assert (options.model_shape, options.shape_scale) == (shape, scale)
    assert (options.shape is None) == (shape == "")


def test_a_shape_sets_what_it_needs_and_an_option_wins() -> None:
    assert parse(["latency", "--model-shape", "nemotron-h"]).block_size == 512
    assert parse(["latency", "--model-shape", "nemotron-h", "--block-size", "1024"]).block_size == 1024
    assert parse(["latency", "--profile", "gpu", "--model-shape", "deepseek-v3.2"]).block_size == 64
    assert parse(["latency", "--model-shape", "qwen3-next"]).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--model-shape", "qwen"], f"--model-shape='qwen': expected one of {', '.join(NAMES)}"),
        (["--model-shape", "deepseek-v3.2"], "'deepseek-v3.2': expected --profile gpu, vLLM has no sparse attention"),
        (["--model", "/m", "--model-shape", "nemotron-h"], "--model='/m' --model-shape=nemotron-h: expected only one"),
    ],
)
def test_a_shape_that_there_is_none_of_is_one_line(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(["latency", *words])
    assert exit_.value.code == 2
    usage, error = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: ")
    assert line in error


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_every_server_of_a_shape_makes_up_its_weights(profile: str) -> None:
    with_shape = servers.common(parse(["latency", "--profile", profile, "--model-shape", "gemma-3-12b"]))
    assert f"--load-format dummy --worker-extension-cls {WORKER_EXTENSION}" in with_shape["VLLM_EXTRA_ARGS"]
    without = servers.common(parse(["latency", "--profile", profile, "--model", "/model"]))
    assert "dummy" not in without["VLLM_EXTRA_ARGS"]


def test_the_class_that_vllm_imports_is_there() -> None:
    """Not imported here: it needs vLLM, whose environment this is not."""
    module, name = WORKER_EXTENSION.rsplit(".", 1)
    assert f"class {name}:" in (REPOSITORY / f"{module.replace('.', '/')}.py").read_text()


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("model.layers.0.mlp.down_proj.weight", (64, 300), (-0.1, 0.1)),
        ("model.layers.0.self_attn.qkv_proj.weight", (64, 300), (-0.2, 0.2)),
        ("model.layers.0.mlp.experts.w13_weight", (8, 64, 300), (-0.1, 0.1)),
        ("model.layers.0.self_attn.qkv_proj.bias", (64,), (-0.1, 0.1)),
        ("model.layers.0.input_layernorm.weight", (64,), (-0.2, 0.2)),
        ("model.layers.0.mixer.A", (8,), (-0.5, -0.01)),
        ("model.layers.0.linear_attn.A_log", (8,), (-4.0, -1.0)),
    ],
)
def test_weights_are_spread_by_their_inputs(name: str, shape: tuple[int, ...], expected: tuple[float, float]) -> None:
    assert bounds(name, shape) == pytest.approx(expected)
