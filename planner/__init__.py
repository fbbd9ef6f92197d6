"""How many instances of which kind some traffic needs: vLLM instances and the proxy's own dispatch in simulated time.

simulation/   one run: arrivals and a deployment go in, what every request waited for comes out
profile.py    what an instance costs, as `make profile` measured it
fit.py        costs from measurements; step_fit.py: those of a step, of which parts may hide behind others
sizing/       every split of some instances, the largest rates, and the answer
trace.py      arrivals from a trace in Mooncake's format
"""
