"""Models of about a million random weights, written on the spot: real vLLM serves them without a download.

The same seed gives the same file. Weights are spread widely enough that greedy answers depend on the whole prompt, do
not repeat one token, and do not hang on the last bits of a sum. Text is bytes: token n is byte n, and 256 ends a text.
"""

import json
import random
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

END_OF_TEXT = 256
VOCABULARY = 288  # a multiple of what tensor parallelism divides it by
HIDDEN, LAYERS, HEADS, HEAD, MLP = 128, 4, 4, 32, 256
ADAPTER_RANK = 8
SEED = 7
LATENT, ROPE_HEAD = 512, 64  # of MLA: the only sizes that vLLM's CPU kernels know

Shape = tuple[int, ...]


@dataclass(frozen=True)
class TinyModel:
    """Written to a folder it is all that vLLM's `--model` needs."""

    name: str
    config: dict[str, Any]
    attention: dict[str, Shape]  # weights of one layer's attention, by name; without any vLLM has to make up weights

    def write(self, parent: Path) -> Path:
        folder = parent / self.name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(_COMMON_CONFIG | self.config, indent=2))
        write_tokenizer(folder)
        if self.attention:
            _write_safetensors(folder / "model.safetensors", dict(self._weights()))
        return folder

    def write_adapter(self, folder: Path, seed: int = SEED) -> Path:
        """A LoRA adapter of rank ADAPTER_RANK with which the model answers differently."""
        folder.mkdir(parents=True)
        targets = ["q_proj", "v_proj"]
        config = {"peft_type": "LORA", "r": ADAPTER_RANK, "lora_alpha": ADAPTER_RANK, "target_modules": targets}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        shapes: dict[str, Shape] = {}
        for number in range(LAYERS):
            for target in targets:
                outputs, inputs = self.attention[target]
                name = f"base_model.model.model.layers.{number}.self_attn.{target}"
                shapes[f"{name}.lora_A.weight"] = (ADAPTER_RANK, inputs)
                shapes[f"{name}.lora_B.weight"] = (outputs, ADAPTER_RANK)
        _write_safetensors(folder / "adapter_model.safetensors", shapes, seed)
        return folder

    def _weights(self) -> Iterator[tuple[str, Shape]]:
        yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
        for number in range(LAYERS):
            layer = f"model.layers.{number}"
            for name, shape in self.attention.items():
                yield f"{layer}.self_attn.{name}.weight", shape
            yield f"{layer}.mlp.gate_proj.weight", (MLP, HIDDEN)
            yield f"{layer}.mlp.up_proj.weight", (MLP, HIDDEN)
            yield f"{layer}.mlp.down_proj.weight", (HIDDEN, MLP)
            yield f"{layer}.input_layernorm.weight", (HIDDEN,)
            yield f"{layer}.post_attention_layernorm.weight", (HIDDEN,)
        yield "model.norm.weight", (HIDDEN,)
        yield "lm_head.weight", (VOCABULARY, HIDDEN)


_COMMON_CONFIG: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "max_position_embeddings": 4096,
    "bos_token_id": END_OF_TEXT,
    "eos_token_id": END_OF_TEXT,
    "tie_word_embeddings": False,
    "dtype": "float32",
}


def grouped_query(kv_heads: int) -> TinyModel:
    """A Llama with 4 query heads on `kv_heads` KV heads."""
    return TinyModel(
        name=f"tiny-llama-{kv_heads}-kv-heads",
        config={
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "num_key_value_heads": kv_heads,
            "head_dim": HEAD,
        },
        attention={
            "q_proj": (HEADS * HEAD, HIDDEN),
            "k_proj": (kv_heads * HEAD, HIDDEN),
            "v_proj": (kv_heads * HEAD, HIDDEN),
            "o_proj": (HIDDEN, HEADS * HEAD),
        },
    )


def sliding_window(layers: int) -> TinyModel:
    """As with two KV heads, but the first `layers` of its layers look back 64 tokens only."""
    model = grouped_query(2)
    types = ["sliding_attention"] * layers + ["full_attention"] * (LAYERS - layers)
    config = model.config | {"layer_types": types, "sliding_window": 64}
    return TinyModel(f"tiny-llama-{layers}-sliding-windows", config, model.attention)


def latent() -> TinyModel:
    """A DeepSeek-V2 without experts: multi-head latent attention, one vector a token for all heads."""
    return TinyModel(
        name="tiny-deepseek",
        config={
            "architectures": ["DeepseekV2ForCausalLM"],
            "model_type": "deepseek_v2",
            "num_key_value_heads": HEADS,
            "q_lora_rank": None,
            "kv_lora_rank": LATENT,
            "qk_nope_head_dim": HEAD,
            "qk_rope_head_dim": ROPE_HEAD,
            "v_head_dim": HEAD,
            "n_routed_experts": 2,
            "first_k_dense_replace": LAYERS,
            # As DeepSeek's own: for plain RoPE vLLM's CPU kernel misreads the strides of MLA's queries.
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 1024,
                "beta_fast": 32,
                "beta_slow": 1,
                "mscale": 0.707,
                "mscale_all_dim": 0.707,
            },
        },
        attention={
            "q_proj": (HEADS * (HEAD + ROPE_HEAD), HIDDEN),
            "kv_a_proj_with_mqa": (LATENT + ROPE_HEAD, HIDDEN),
            "kv_a_layernorm": (LATENT,),
            "kv_b_proj": (HEADS * 2 * HEAD, LATENT),
            "o_proj": (HIDDEN, HEADS * HEAD),
        },
    )


def hybrid() -> TinyModel:
    """A Jamba: full attention in every second layer, a state space in the others. For `--load-format dummy`."""
    return TinyModel(
        name="tiny-jamba",
        config={
            "architectures": ["JambaForCausalLM"],
            "model_type": "jamba",
            "num_key_value_heads": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "num_experts": 1,
            "num_experts_per_tok": 1,
            "mamba_d_state": 16,
            "mamba_d_conv": 4,
            "mamba_expand": 2,
            "mamba_dt_rank": 8,
        },
        attention={},
    )


def write_tokenizer(folder: Path) -> None:
    """Text is bytes; see above."""
    (folder / "tokenizer.json").write_text(json.dumps(_byte_tokenizer()))
    (folder / "tokenizer_config.json").write_text(json.dumps(_TOKENIZER_CONFIG))


def _write_safetensors(file: Path, shapes: dict[str, Shape], seed: int = SEED) -> None:
    """The format is a table of contents and the bytes: no need of a library, or of torch."""
    contents: dict[str, Any] = {}
    data = array("f")
    numbers = random.Random(seed)
    for name, shape in shapes.items():
        start = len(data) * data.itemsize
        if len(shape) == 1:
            data.extend([1.0] * shape[0])  # a norm's
        else:
            rows, columns = shape
            spread = _spread(name, columns)
            data.extend(numbers.uniform(-spread, spread) for _ in range(rows * columns))
        contents[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, len(data) * data.itemsize]}
    header = json.dumps(contents).encode()
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(header)) + header)
        data.tofile(out)


def _spread(name: str, inputs: int) -> float:
    """Half the width of the weights' uniform distribution.

    A matrix then gives numbers about as large as it was given, queries and keys larger ones: attention that picks some
    tokens out of the prompt instead of averaging all.
    """
    gain = 2.0 if ".q_proj." in name or ".k_proj." in name or ".kv_a_proj" in name else 1.0
    return float(gain * (3 / inputs) ** 0.5)


_TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|end|>",
    "eos_token": "<|end|>",
    "model_max_length": 4096,
}


def _byte_tokenizer() -> dict[str, Any]:
    """Byte-level BPE without a merge, as `tokenizers` reads it."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    # GPT-2's alphabet: a byte that prints stands for itself, the others for the characters from 256 on.
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": END_OF_TEXT,
                "content": "<|end|>",
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {letters[byte]: byte for byte in range(256)} | {"<|end|>": END_OF_TEXT},
            "merges": [],
        },
    }
