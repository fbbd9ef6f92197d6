"""A KV store's masters that stand by for each other (STORE_MASTERS=2, docs/store.md)."""
