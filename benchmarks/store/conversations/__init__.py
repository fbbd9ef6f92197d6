"""Chats and a trace through a whole stack, with and without a KV store that its instances share.

docs/benchmarks/README.md says how to run it and how to read the results.
"""
