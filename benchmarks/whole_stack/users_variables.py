"""The stack's own variables that somebody has set: they hold for every side, and a page shows them."""

import os

from benchmarks import program
from benchmarks.whole_stack.stack_side import PORTS
from stack.configuration import env_file

# Ports, addresses and folders are the comparison's own, or say nothing about how the stack serves; and secrets.
NOT_SHOWN = (
    *("STACK_DIR", "STACK_VENV_DIR", "MODEL_DIR", "STACK_SERVICES", "STACK_START_TIMEOUT_S", *PORTS),
    *("BIND_ADDRESS", "VLLM_HOST_IP", "LISTEN_HOST", "ETCD_ENDPOINT"),
    *("STACK_KEY", "OPENAI_API_KEY", "PROXY_API_KEYS", "HF_TOKEN"),
)


def set_variables() -> dict[str, str]:
    """Those of this process's environment, without the load test's."""
    known = env_file.known_names()
    return {
        name: program.shown(value)
        for name, value in os.environ.items()
        if name in known and value and name not in NOT_SHOWN and not name.startswith("LOADTEST_")
    }
