"""What vLLM's own Mooncake connector is started with, wherever a benchmark puts it in place of ours."""

# It leaves the choice of the transport to Mooncake, which looks at these.
TRANSPORTS = {"tcp": {"MC_FORCE_TCP": "1"}, "nvlink_intra": {"MC_INTRANODE_NVLINK": "1"}, "rdma": {}}
BOOTSTRAP_PORT = "VLLM_MOONCAKE_BOOTSTRAP_PORT"  # variable; where a producer tells consumers of its ranks


def kv_transfer_config(name: str, role: str, transport: str, *, on_gpu: bool) -> dict[str, object]:
    """`role`: producer or consumer; `name`: of the engine."""
    config: dict[str, object] = {
        "kv_connector": "MooncakeConnector",
        "kv_role": f"kv_{role}",
        "engine_id": name,
        "kv_connector_extra_config": {"mooncake_protocol": transport},
    }
    return config if on_gpu else config | {"kv_connector_module_path": "benchmarks.connector.upstream_on_cpu"}
