"""One run in simulated time. Nothing is measured, and chance is the same each time: the same input, the same figures.

clock.py       what happens when
costs.py       what a step and a transfer take
server.py      what an instance is, and the machine that it shares
engine/        what it does with requests, as vLLM does
transfer.py    the KV cache on its way while the prompt is computed
deployment.py  which instances there are, and the proxy's fleet of them
exchange.py    one client request over its legs, as the proxy dispatches it
run.py         all of them together
outcome.py     what came out
"""
