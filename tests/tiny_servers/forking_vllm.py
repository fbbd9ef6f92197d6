"""A process that has imported vLLM and forks servers: python -m tests.tiny_servers.forking_vllm

A server is two to four processes, each of which would import vLLM for 7 to 16 s of a core. Here a server is up after
a few seconds, with the command line and the environment that the launcher would give it. A line of JSON on stdin, an
`Order`, is a server to start; the answer is its pid. All servers end when stdin is closed, or with this process.
"""

import ctypes
import gc
import json
import multiprocessing
import os
import re
import signal
import sys
from pathlib import Path
from typing import TypedDict

import msgspec

from connector.control.messages import Register
from connector.instance import store, vllm_command
from connector.scheduling.consumer_scheduler import Asked, ConsumerScheduler, Part
from stack.configuration.environment import load
from stack.instances.settings import LauncherSettings

PR_SET_PDEATHSIG = 1
MODELS = (  # vLLM's names of those that tests serve, and of their drafts
    "DeepSeekMTPModel",
    "DeepseekV2ForCausalLM",
    "DeepseekV3ForCausalLM",
    "Eagle3LlamaForCausalLM",
    "EagleLlamaForCausalLM",
    "FalconH1ForCausalLM",
    "Gemma3ForCausalLM",
    "Gemma4ForCausalLM",
    "GptOssForCausalLM",
    "JambaForCausalLM",
    "Llama4ForCausalLM",
    "LlamaForCausalLM",
    "LlamaForCausalLMEagle3",
    "Mamba2ForCausalLM",
    "NemotronHForCausalLM",
    "Qwen3NextForCausalLM",
)


class Order(TypedDict):
    instance_id: str
    variables: dict[str, str]  # the launcher's
    log: str
    unmoved: str  # a file: see `Fleet.unmoved`


def main() -> None:
    import vllm.entrypoints.launchers.api_server.entry
    import vllm.v1.engine.core
    import vllm.v1.executor.multiproc_executor
    import vllm.v1.worker.cpu_worker  # noqa: F401
    from vllm import ModelRegistry

    import connector.vllm_hooks.kv_connector  # noqa: F401
    import tests.tiny_servers.on_cpus.pipelines  # noqa: F401

    for name in MODELS:  # or each server asks one more process what its model can do
        ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())
    fork = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: fork  # type: ignore[assignment]  # vLLM on CPUs insists on spawn
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # leave no zombies: a test sees by the pid whether a server has ended
    gc.freeze()  # a collection would write to, and so copy, the pages that the servers share
    pids = []
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _serve(json.loads(line))
            return
        pids.append(pid)
        print(pid, flush=True)
    for pid in pids:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _serve(order: Order) -> None:
    """In the child: become the vLLM server."""
    from vllm.entrypoints.launchers.api_server.entry import main as api_server

    # Not `setsid`, which gives each a scheduling group (autogroup): ranks that spin while they wait for each other
    # have then kept both cores of a small machine from everybody else for half a minute.
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, order["log"], os.O_WRONLY | os.O_APPEND),
    ):
        os.dup2(os.open(path, flags), descriptor)
    os.environ.update(order["variables"])
    _leave_unmoved(Path(order["unmoved"]))
    settings = load(LauncherSettings)
    variables = vllm_command.environment(settings, os.environ)
    if settings.store_master:
        folder = Path(order["log"]).with_suffix(".store")
        folder.mkdir()
        variables |= store.environment(settings, str(folder), os.environ)
    os.environ.clear()
    os.environ.update(variables)
    _, _, *sys.argv = vllm_command.command(settings, order["instance_id"])  # after `python -m`
    api_server()


def _leave_unmoved(file: Path) -> None:
    """While the file is there a consumer does not ask for layers that its content names: see `Fleet.unmoved`."""
    register = ConsumerScheduler._registration

    def without(self: ConsumerScheduler, asked: Asked, rank: int, part: Part) -> Register:
        registration = register(self, asked, rank, part)
        if not file.exists():
            return registration
        unmoved, layout = file.read_text(), self._ranks[rank].layout
        layers = [
            place
            for place in registration.layers
            if not re.search(unmoved, f"group {layout.layers[layout.by_name[place.name]].group}: {place.name}")
        ]
        return msgspec.structs.replace(registration, layers=layers)

    ConsumerScheduler._registration = without  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
