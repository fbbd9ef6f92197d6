"""How many instances of which kind some traffic needs: vLLM instances and the proxy's own dispatch in simulated time.

simulation/   one run: arrivals and a deployment go in, what every request waited for comes out
trace.py      arrivals from a trace in Mooncake's format
"""
