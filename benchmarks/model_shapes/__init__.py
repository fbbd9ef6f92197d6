"""Models that have the layers of published ones and weights that are made up: nothing has to be downloaded.

What a transfer costs depends on layers, heads, windows, states and types, not on what the weights are.
docs/benchmarks/README.md lists the shapes, and how many layers each has.
"""
