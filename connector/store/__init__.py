"""A KV store that instances share: vLLM's own connector to it, within bounds, beside the streaming one."""
