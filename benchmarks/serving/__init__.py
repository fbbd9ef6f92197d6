"""Disaggregated against aggregated serving: equal instances, flags and requests, one after the other.

docs/benchmarks/README.md says how to run it and how to read the results.
"""
