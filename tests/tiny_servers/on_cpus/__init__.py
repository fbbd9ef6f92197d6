"""What vLLM 0.32 lacks for parallelism on a CPU, for tests alone.

Each module changes vLLM when it is imported, which `--worker-extension-cls MODULE.Extension` makes every worker do
before it loads its model. Forked servers may have it from the process that they are forked from.
"""

PIPELINES = f"--worker-extension-cls {__name__}.pipelines.Extension"
EXPERTS = f"--worker-extension-cls {__name__}.experts.Extension --scheduler-cls {__name__}.experts.scheduler"
