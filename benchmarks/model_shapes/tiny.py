"""Each shape small enough for a CPU: the same kinds of layers and cache, the real windows, few and narrow layers.

The vocabulary is as large as that of the tokenizer that comes along, because the benchmark's prompts use most of it.
"""

from benchmarks.model_shapes import full
from benchmarks.model_shapes.full import Config

NARROW: Config = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 49152,
}

QWEN25_7B = full.QWEN25_7B | NARROW | {"num_hidden_layers": 4}
QWEN3_NEXT_80B = (
    full.QWEN3_NEXT_80B
    | NARROW
    | {
        "num_hidden_layers": 4,
        "layer_types": full.QWEN3_NEXT_80B["layer_types"][:4],
        "head_dim": 64,  # vLLM's CPU kernels know no smaller one here, and for the state only the real 128
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "num_experts": 2,  # and both are used: in bfloat16 a choice of experts would hang on the last bits
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 128,
        "shared_expert_intermediate_size": 128,
    }
)
DEEPSEEK_V3 = (
    full.DEEPSEEK_V3
    | NARROW
    | {
        "num_hidden_layers": 4,
        "num_key_value_heads": 4,
        "q_lora_rank": 64,  # the other sizes of MLA's cache are the only ones that vLLM's CPU kernels know
        "qk_nope_head_dim": 32,
        "v_head_dim": 32,
        "first_k_dense_replace": 5,
    }
)
GPT_OSS_20B = (
    full.GPT_OSS_20B
    | NARROW
    | {
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "layer_types": full.GPT_OSS_20B["layer_types"][:4],
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    }
)
GEMMA_3_12B = (
    full.GEMMA_3_12B
    | NARROW
    | {
        "num_hidden_layers": 6,
        "layer_types": full.GEMMA_3_12B["layer_types"][:6],
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
    }
)
NEMOTRON_H_8B = (
    full.NEMOTRON_H_8B
    | NARROW
    | {
        "hybrid_override_pattern": "M*M-",
        "head_dim": 32,
        "attention_head_dim": 32,
        "mamba_num_heads": 8,
        "mamba_head_dim": 32,
        "ssm_state_size": 16,
        "n_groups": 1,
        "chunk_size": 64,
    }
)
