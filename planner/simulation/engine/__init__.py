"""One vLLM instance.

kv_pool.py     its KV blocks and prefix cache
sequence.py    one request on it
decoding.py    the answers under way on it
steps.py       when its steps end
queues.py      who waits for it
instance.py    vLLM's scheduler: which tokens are computed in which step
"""
