"""Tiny models of every kind of cache that the connector moves, and with which options vLLM serves each on a CPU.

Each is a `config.json`; `write_models.py` makes its weights. Windows and chunks are 64 tokens, blocks 32, where a model
leaves the choice; a prefill is computed in steps of 128 tokens, so that most prompts take more than one.
"""

from dataclasses import dataclass
from typing import Any, Literal

from tests.tiny_models import END_OF_TEXT, VOCABULARY

WINDOW = 64
BLOCK_TOKENS = 32
STEP_TOKENS = 128
MAX_MODEL_LEN = 1024
Config = dict[str, Any]


@dataclass(frozen=True)
class Served:
    """A model, and how vLLM keeps its cache.

    tolerance: how far a log probability may be from the plain server's; None: a few times as far as the plain server's
    own are apart, for kernels whose results depend on the batch. is_bounded: the cache does not grow with the prompt.
    groups: how many vLLM makes of its layers, each with a block table of its own. prefixed: lengths of prompts of which
    two thirds are more than a block.
    """

    name: str
    config: Config
    arguments: str = ""
    dtype: Literal["float32", "bfloat16"] = "float32"
    block_size: int = BLOCK_TOKENS
    step_tokens: int = STEP_TOKENS
    caches_prefixes: bool = True
    is_bounded: bool = False
    has_state: bool = False
    groups: int = 1
    prefixed: tuple[int, ...] = (200, 300, 500, 700)
    tolerance: float | None = 1e-3


HYBRID_ON = "--no-disable-hybrid-kv-cache-manager"
HYBRID_OFF = "--disable-hybrid-kv-cache-manager"
WINDOWED, CHUNKED, LINEAR, FULL = "sliding_attention", "chunked_attention", "linear_attention", "full_attention"
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
FAR_ROPE = {"rope_type": "default", "rope_theta": 1000000.0}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 1024,
    "beta_fast": 32,
    "beta_slow": 1,
}


def _config(architecture: str, model_type: str, **more: Any) -> Config:
    """A value of None leaves a common key out."""
    common = {
        "architectures": [architecture],
        "model_type": model_type,
        "dtype": "float32",
        "vocab_size": VOCABULARY,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "bos_token_id": END_OF_TEXT,
        "eos_token_id": END_OF_TEXT,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "rope_parameters": ROPE,
    }
    return {name: value for name, value in (common | more).items() if value is not None}


def _llama(**more: Any) -> Config:
    return _config("LlamaForCausalLM", "llama", **more)


GEMMA_3 = _config(
    "Gemma3ForCausalLM",
    "gemma3_text",
    hidden_act=None,
    hidden_activation="gelu_pytorch_tanh",
    num_hidden_layers=6,
    layer_types=[WINDOWED, WINDOWED, FULL] * 2,
    sliding_window=WINDOW,
    query_pre_attn_scalar=32,
    rope_parameters={WINDOWED: ROPE, FULL: FAR_ROPE},
)
# Its layers of full attention have heads of another size and number: here as many bytes a token as the others'.
GEMMA_4 = _config(
    "Gemma4ForCausalLM",
    "gemma4_text",
    hidden_act=None,
    hidden_activation="gelu_pytorch_tanh",
    num_hidden_layers=6,
    layer_types=[WINDOWED, WINDOWED, FULL] * 2,
    sliding_window=WINDOW,
    rope_parameters={
        WINDOWED: ROPE,
        FULL: {"rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.25},
    },
    global_head_dim=64,
    num_global_key_value_heads=1,
    attention_k_eq_v=True,
    hidden_size_per_layer_input=0,
    vocab_size_per_layer_input=VOCABULARY,
    num_kv_shared_layers=0,
)
# And here twice as many.
GEMMA_4_UNEQUAL = GEMMA_4 | {"num_global_key_value_heads": 2, "attention_k_eq_v": False}
# The last three layers read the caches of others.
GEMMA_4_SHARED = GEMMA_4_UNEQUAL | {
    "num_hidden_layers": 8,
    "layer_types": [WINDOWED, WINDOWED, WINDOWED, FULL] * 2,
    "num_kv_shared_layers": 3,
}
GPT_OSS = _config(
    "GptOssForCausalLM",
    "gpt_oss",
    intermediate_size=128,
    head_dim=64,
    layer_types=[WINDOWED, FULL] * 2,
    sliding_window=WINDOW,
    num_local_experts=4,
    num_experts_per_tok=2,
    attention_bias=True,
    swiglu_limit=7.0,
    rope_parameters=YARN | {"mscale": 0.707, "mscale_all_dim": 0.707, "truncate": False},
)
LLAMA_4 = _config(
    "Llama4ForCausalLM",
    "llama4_text",
    layer_types=[CHUNKED] * 3 + [FULL],
    attention_chunk_size=WINDOW,
    no_rope_layers=[1, 1, 1, 0],
    use_qk_norm=True,
    num_local_experts=4,
    num_experts_per_tok=1,
    intermediate_size_mlp=256,
    moe_layers=[1, 3],
    interleave_moe_layer_step=2,
)
NEMOTRON_H = _config(
    "NemotronHForCausalLM",
    "nemotron_h",
    layers_block_type=["mamba", "attention", "mamba", "mlp"],
    hybrid_override_pattern="M*M-",
    mamba_num_heads=8,
    mamba_head_dim=32,
    ssm_state_size=16,
    n_groups=1,
    conv_kernel=4,
    chunk_size=64,
    layer_norm_epsilon=1e-5,
    attention_head_dim=32,
    rope_parameters=None,
)
FALCON_H1 = _config(
    "FalconH1ForCausalLM",
    "falcon_h1",
    mamba_d_ssm=256,
    mamba_n_heads=8,
    mamba_d_head=32,
    mamba_n_groups=1,
    mamba_d_state=16,
    mamba_d_conv=4,
    mamba_expand=2,
    mamba_chunk_size=64,
    mamba_rms_norm=False,
    lm_head_multiplier=1.0,
    embedding_multiplier=1.0,
    mlp_multipliers=[1.0, 1.0],
    key_multiplier=1.0,
    attention_out_multiplier=1.0,
    attention_in_multiplier=1.0,
    ssm_multipliers=[1.0] * 5,
    ssm_in_multiplier=1.0,
    ssm_out_multiplier=1.0,
    projectors_bias=False,
)
MAMBA_2 = _config(
    "Mamba2ForCausalLM",
    "mamba2",
    intermediate_size=None,
    num_attention_heads=None,
    num_key_value_heads=None,
    rms_norm_eps=None,
    rope_parameters=None,
    num_heads=8,
    state_size=16,
    expand=2,
    conv_kernel=4,
    n_groups=1,
    chunk_size=64,
    layer_norm_epsilon=1e-5,
)
DEEPSEEK_V3 = _config(
    "DeepseekV3ForCausalLM",
    "deepseek_v3",
    num_key_value_heads=4,
    head_dim=None,
    q_lora_rank=64,
    kv_lora_rank=512,  # of MLA: the only sizes that vLLM's CPU kernels know
    qk_nope_head_dim=32,
    qk_rope_head_dim=64,
    v_head_dim=32,
    n_routed_experts=4,
    n_shared_experts=1,
    num_experts_per_tok=2,
    n_group=1,
    topk_group=1,
    topk_method="noaux_tc",
    first_k_dense_replace=2,
    moe_intermediate_size=64,
    rope_parameters=YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
)
QWEN_3_NEXT = _config(
    "Qwen3NextForCausalLM",
    "qwen3_next",
    layer_types=[LINEAR, LINEAR, LINEAR, FULL],
    head_dim=64,
    linear_conv_kernel_dim=4,
    linear_key_head_dim=128,
    linear_value_head_dim=128,
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    num_experts=2,  # and both are used: in bfloat16 a choice of experts would hang on the last bits
    num_experts_per_tok=2,
    moe_intermediate_size=128,
    shared_expert_intermediate_size=128,
    decoder_sparse_step=1,
    partial_rotary_factor=0.25,
    rope_parameters=ROPE | {"partial_rotary_factor": 0.25},
)

# A Mamba-2 layer keeps its state at the end of a block, and vLLM 0.32 fails where a step ends beyond one.
STATE: dict[str, Any] = {"block_size": STEP_TOKENS, "arguments": "--enable-prefix-caching", "has_state": True}

ALL = (
    Served("llama", _llama()),
    Served(
        "llama-some-windows",
        _llama(layer_types=[WINDOWED] * 2 + [FULL] * 2, sliding_window=WINDOW),
        HYBRID_ON,
        groups=2,
    ),
    Served("llama-all-windows", _llama(layer_types=[WINDOWED] * 4, sliding_window=WINDOW), HYBRID_ON, is_bounded=True),
    Served("gemma-3", GEMMA_3, HYBRID_ON, groups=3),
    Served("gemma-4", GEMMA_4, HYBRID_ON, groups=3),
    Served("gemma-4-unequal", GEMMA_4_UNEQUAL, HYBRID_ON, groups=3),
    Served("gemma-4-unequal-one-group", GEMMA_4_UNEQUAL, HYBRID_OFF),
    Served("gemma-4-shared-layers", GEMMA_4_SHARED, HYBRID_ON, groups=2),
    Served("gpt-oss", GPT_OSS, HYBRID_ON, groups=2),
    Served("llama-4", LLAMA_4, HYBRID_ON, groups=4),
    Served("nemotron-h", NEMOTRON_H, **STATE, groups=3),
    Served("falcon-h1", FALCON_H1, **STATE, groups=2),
    Served("mamba-2", MAMBA_2, caches_prefixes=False, is_bounded=True, has_state=True),
    # MLA: the CPU backend that every CPU has knows blocks of 16 only, no steps, and caches no prefixes.
    Served(
        "deepseek-v3",
        DEEPSEEK_V3,
        "--attention-backend CPU_MLA",
        block_size=16,
        step_tokens=4 * MAX_MODEL_LEN,
        caches_prefixes=False,
    ),
    Served(
        "qwen-3-next",
        QWEN_3_NEXT,
        "--enable-prefix-caching",
        dtype="bfloat16",
        tolerance=None,
        has_state=True,
        groups=4,
        prefixed=(900, 1000),  # vLLM makes blocks of 544 tokens, as large as the state
    ),
)
BY_NAME = {served.name: served for served in ALL}
