"""The command and the environment of every server of a run, which differ in `--kv-transfer-config`.

Ours start through `python -m connector.instance.launcher`, as in the stack. The others get the command that this
launcher would run, with another or no `--kv-transfer-config`, and without what comes with our connector: producers'
`--scheduling-policy`, and the `--scheduler-cls` of consumers, which takes first tokens. All of them run with the
interpreter that runs the benchmark.
"""

import dataclasses
import importlib.util
import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import upstream_connector
from benchmarks.connector.topology.server_options import ServerOptions
from benchmarks.errors import CannotStart
from benchmarks.model_shapes import folder as shape_folder
from benchmarks.model_shapes.bounds import WORKER_EXTENSION
from benchmarks.processes import Launch
from connector.instance import vllm_command
from stack.configuration.environment import load
from stack.configuration.settings import EMBEDDED_MODEL, REPOSITORY
from stack.host import machine
from stack.instances.settings import LauncherSettings

SERVED_MODEL = "benchmark"
KV_TRANSFER_CONFIG = "--kv-transfer-config"
DISTRIBUTIONS = re.compile(r"(vllm|mooncake|torch$|etcd.distro).*", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """Where a server runs: its address, its GPUs (empty: all), and words that start its command, e.g. `nsenter`."""

    host: str = "127.0.0.1"
    gpus: str = ""
    prefix: tuple[str, ...] = ()


@dataclass(frozen=True)
class Blueprint:
    """`common`: the launcher's variables that hold for every server; `inherited`: the rest of the environment;
    `checkout`: the project's folder whose code our servers run."""

    common: Mapping[str, str]
    inherited: Mapping[str, str]
    checkout: Path = REPOSITORY

    def of(self, checkout: Path) -> "Blueprint":
        """For servers that run another checkout's code. Raises: CannotStart: it is none."""
        _launcher(checkout)
        words = shlex.split(self.common["VLLM_EXTRA_ARGS"])
        if WORKER_EXTENSION in words and not (checkout / "benchmarks/model_shapes").is_dir():
            at = words.index(WORKER_EXTENSION)  # its servers have vLLM's own made-up weights
            del words[at - 1 : at + 1]
        common = {**self.common, "VLLM_EXTRA_ARGS": shlex.join(words)}
        return dataclasses.replace(self, common=common, checkout=checkout)

    def ours(
        self, name: str, role: str, port: int, control_port: int, place: Place, variables: Mapping[str, str]
    ) -> Launch:
        """`role` is producer or consumer; `variables` are further ones of the launcher."""
        environment = {
            **self._base(place),
            **self.common,
            **_role(role, port, place),
            "CONTROL_PORT": str(control_port),
            **variables,
        }
        command = (*place.prefix, sys.executable, "-m", _launcher(self.checkout))
        return Launch(name, command, environment, self.checkout)

    def single(self, name: str, port: int, place: Place) -> Launch:
        return self._plain(name, port, place, {}, {})

    def upstream(self, name: str, role: str, port: int, bootstrap_port: int, transport: str, place: Place) -> Launch:
        config = upstream_connector.kv_transfer_config(name, role, transport, on_gpu=vllm_command.on_gpu())
        variables = {
            upstream_connector.BOOTSTRAP_PORT: str(bootstrap_port),
            **upstream_connector.TRANSPORTS[transport],
        }
        return self._plain(name, port, place, config, variables)

    def _plain(
        self, name: str, port: int, place: Place, config: dict[str, object], variables: Mapping[str, str]
    ) -> Launch:
        ours = {name.lower(): value for name, value in {**self.common, **_role("producer", port, place)}.items()}
        settings = load(LauncherSettings, **ours)
        words = vllm_command.command(settings, name)
        at = words.index(KV_TRANSFER_CONFIG)
        words[at : at + 2] = [KV_TRANSFER_CONFIG, json.dumps(config)] if config else []
        at = words.index("--scheduling-policy")  # of producers: the proxy tells their order
        del words[at : at + 2]
        environment = {**vllm_command.environment(settings, self._base(place)), **variables}
        return Launch(name, (*place.prefix, *words), environment)

    def _base(self, place: Place) -> dict[str, str]:
        gpus = {"CUDA_VISIBLE_DEVICES": place.gpus} if place.gpus else {}
        path = ":".join(filter(None, [str(self.checkout), self.inherited.get("PYTHONPATH")]))
        return {**self.inherited, **gpus, "PYTHONPATH": path}


def blueprint(options: ServerOptions, model: Path, etcd: str, key: str, speculative_config: str = "") -> Blueprint:
    """`etcd` is its host:port, `key` the stack's; `speculative_config` is vLLM's, as JSON, for every server."""
    shared = common(options)
    if speculative_config:
        shared["VLLM_EXTRA_ARGS"] += " " + shlex.join(["--speculative-config", speculative_config])
    own = {"MODEL": str(model), "ETCD_ENDPOINT": etcd, "STACK_KEY": key, "SHUTDOWN_GRACE_S": "0"}
    inherited = dict(os.environ)
    if importlib.util.find_spec("flashinfer") is None:
        inherited["VLLM_USE_FLASHINFER_SAMPLER"] = "0"  # else vLLM does not start on a GPU
    return Blueprint({**shared, **own}, inherited)


def model_folder(options: ServerOptions, scratch: Path) -> Path:
    """Raises: CannotStart: there is no such folder."""
    if shape := options.shape:
        return shape_folder.write(shape.config, scratch / f"{options.model_shape}-shape", options.model_tokenizer)
    folder = Path(options.model or REPOSITORY / ".stack/models" / EMBEDDED_MODEL).absolute()
    if not (folder / "config.json").is_file():
        raise CannotStart(f"--model={str(folder)!r}: expected a model's folder; `python -m stack.prepare` makes one")
    return folder


def about(options: ServerOptions) -> dict[str, object]:
    """What the head of a document says of the machine and of all servers."""
    return {
        "machine": machine.hardware(),
        "versions": machine.versions(options.commit, DISTRIBUTIONS),
        "settings": {name: value for name, value in common(options).items() if name != "MODEL"},
    }


def common(options: ServerOptions) -> dict[str, str]:
    """The launcher's variables that are the same in every run with these options."""
    extra = []
    if options.profile == "gpu":
        extra += ["--kv-cache-memory-bytes", str(options.kv_cache_bytes)]
    if shape := options.shape:
        extra += ["--load-format", "dummy", "--worker-extension-cls", options.worker_extension, *shape.arguments]
    if options.data_parallel_size > 1:
        extra += ["--data-parallel-size", str(options.data_parallel_size)]
    if options.expert_parallel:
        extra += ["--enable-expert-parallel"]
    if options.compilation_config:
        extra += ["--compilation-config", options.compilation_config]
    return {
        "SERVED_MODEL_NAME": SERVED_MODEL,
        "MAX_MODEL_LEN": str(options.max_model_len),
        "DTYPE": options.dtype,
        "BLOCK_SIZE": str(options.block_size),
        "KV_CACHE_BYTES": str(options.kv_cache_bytes),
        "MAX_NUM_BATCHED_TOKENS": str(options.max_num_batched_tokens),
        "TENSOR_PARALLEL_SIZE": str(options.tensor_parallel_size),
        "GPU_MEMORY_UTILIZATION": str(options.gpu_memory_utilization),
        "VLLM_EXTRA_ARGS": shlex.join(extra),
    }


def forget_settings_of_the_shell() -> None:
    """What a server gets is said by the options alone, so drop variables of the stack's and of Mooncake's."""
    ours = {name.upper() for name in LauncherSettings.model_fields}
    _drop(name for name in list(os.environ) if name in ours or name.startswith("MC_"))


def _launcher(checkout: Path) -> str:
    """The launcher's module, which was elsewhere before 2026-11-28. Raises: CannotStart: there is none."""
    for module in ("connector.instance.launcher", "connector.launcher"):
        if (checkout / module.replace(".", "/")).with_suffix(".py").is_file():
            return module
    raise CannotStart(
        f"--before={str(checkout)!r}: expected a checkout of this project, with the launcher in connector/"
    )


def _drop(names: Iterable[str]) -> None:
    for name in names:
        del os.environ[name]


def _role(role: str, port: int, place: Place) -> dict[str, str]:
    return {
        "VLLM_DISTRIBUTED_KV_ROLE": role,
        "PREFILL_PORT": str(port),
        "DECODE_PORT": str(port),
        "VLLM_HOST_IP": place.host,
    }
