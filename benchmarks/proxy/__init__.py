"""What the proxy costs: ours beside other proxies for disaggregated serving, on scripted upstreams, in one run.

docs/benchmarks/README.md says how to run it and how to read the results.
"""
