"""One run in simulated time. Nothing is random and nothing is measured: the same input gives the same figures.

clock.py       what happens when
costs.py       what a step and a transfer take
server.py      what an instance is
kv_pool.py     an instance's KV blocks and prefix cache
sequence.py    one request on one instance
decoding.py    the answers under way on one instance
instance.py    vLLM's scheduler: which tokens are computed in which step
transfer.py    the KV cache on its way while the prompt is computed
deployment.py  which instances there are, and the proxy's fleet of them
exchange.py    one client request over its legs, as the proxy dispatches it
run.py         all of them together
outcome.py     what came out
"""
