"""What disaggregation costs: our connector against a single server and against vLLM's own MooncakeConnector.

Everything compared is measured in one run, request by request in turn, on servers that differ in
`--kv-transfer-config` and nothing else. docs/benchmarks/README.md says how to run it and how to read the results.
"""
