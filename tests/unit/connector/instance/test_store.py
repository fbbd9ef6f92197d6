"""What a server is told of a store that instances share, and that nothing of it is there without one."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from connector.instance import store, vllm_command
from connector.vllm_hooks.options import ConnectorOptions
from stack.configuration.environment import ConfigError, load
from stack.instances.settings import LauncherSettings

MASTER = "10.0.0.9:50051"


@pytest.fixture(autouse=True)
def on_cpu(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(vllm_command, "vllm_version", lambda: "0.32.0+cpu")
    environment.setenv("STORE_MASTER", MASTER)


def settings(environment: pytest.MonkeyPatch, role: str, **variables: str) -> LauncherSettings:
    for name, value in variables.items():
        environment.setenv(name, value)
    environment.setenv("VLLM_DISTRIBUTED_KV_ROLE", role)
    return load(LauncherSettings)


def config(given: LauncherSettings, instance_id: str = "prefill-10.0.0.1-8100-0a1b2c3d") -> dict[str, Any]:
    words = vllm_command.command(given, instance_id)
    return dict(json.loads(words[words.index("--kv-transfer-config") + 1]))


def children(given: LauncherSettings) -> tuple[dict[str, Any], dict[str, Any]]:
    ours, stores = config(given)["kv_connector_extra_config"]["connectors"]
    return ours, stores


@pytest.mark.parametrize(
    ("role", "kv_role", "looks_up", "saves_answers"),
    [("producer", "kv_producer", True, False), ("consumer", "kv_consumer", False, True)],
)
def test_the_stores_connector_stands_behind_the_streaming_one(
    environment: pytest.MonkeyPatch, role: str, kv_role: str, looks_up: bool, saves_answers: bool
) -> None:
    environment.delenv("STORE_MASTER")
    alone = config(settings(environment, role))
    environment.setenv("STORE_MASTER", MASTER)
    both = config(settings(environment, role))

    ours, stores = both["kv_connector_extra_config"].pop("connectors")
    assert both.pop("kv_connector_extra_config") == {}
    assert (both["kv_connector"], both["engine_id"]) == ("MultiConnector", alone["engine_id"])
    assert ours == {name: alone[name] for name in alone if name not in ("engine_id", "kv_load_failure_policy")}
    ConnectorOptions.from_extra_config(ours["kv_connector_extra_config"])
    assert "engine_id" not in stores, "vLLM gives it to each, and refuses it twice"
    assert [each["kv_role"] for each in (both, ours, stores)] == [kv_role] * 3
    told = stores["kv_connector_extra_config"]
    assert (told["enable_lookup"], told["save_decode_cache"]) == (looks_up, saves_answers)


def test_an_aggregated_server_has_the_stores_connector_alone(environment: pytest.MonkeyPatch) -> None:
    given = settings(environment, "aggregated")
    found = config(given)

    assert (found["kv_connector"], found["kv_role"]) == ("BoundedStoreConnector", "kv_both")
    told = found["kv_connector_extra_config"]
    assert (told["enable_lookup"], told["save_decode_cache"]) == (True, True)
    assert "--middleware" not in vllm_command.command(given, "i"), "which tells of transfers"


@pytest.mark.parametrize(("role", "policy"), [("producer", "recompute"), ("consumer", "fail")])
def test_a_failed_load_fails_no_request_whatever_is_said_of_transfers(
    environment: pytest.MonkeyPatch, role: str, policy: str
) -> None:
    assert config(settings(environment, role, KV_LOAD_FAILURE_POLICY="fail"))["kv_load_failure_policy"] == policy


def test_two_servers_of_one_host_do_not_share_a_socket_but_their_keys(environment: pytest.MonkeyPatch) -> None:
    given = settings(environment, "aggregated")
    one, other = (config(given, f"aggregated-10.0.0.1-8100-{end}") for end in ("0a1b2c3d", "4e5f6071"))

    assert one["kv_connector_extra_config"].pop("lookup_rpc_port") == "0a1b2c3d"
    assert other["kv_connector_extra_config"].pop("lookup_rpc_port") == "4e5f6071"
    assert one["kv_connector_extra_config"] == other["kv_connector_extra_config"]


def prefix(environment: pytest.MonkeyPatch, role: str, **variables: str) -> str:
    _, stores = children(settings(environment, role, **variables))
    return str(stores["kv_connector_extra_config"]["cache_prefix"])


def test_producers_and_consumers_share_keys_and_other_caches_have_others(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    common = prefix(environment, "producer")
    assert common == prefix(environment, "consumer")
    other_models = [tmp_path / "one" / "model", tmp_path / "another" / "model"]
    for number, folder in enumerate(other_models):  # of one basename, which is all that vLLM's own keys hold
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"hidden_size": number}))
    others = [prefix(environment, "producer", MODEL=str(folder)) for folder in other_models]
    others += [
        prefix(environment, "producer", **{name: value})
        for name, value in (("BLOCK_SIZE", "16"), ("DTYPE", "float16"), ("TENSOR_PARALLEL_SIZE", "2"))
    ]

    assert len({common, *others}) == 1 + len(others)


@pytest.mark.parametrize("role", ["producer", "aggregated"])
def test_vllm_gets_a_file_of_its_own_and_bounds_for_calls(
    environment: pytest.MonkeyPatch, tmp_path: Path, role: str
) -> None:
    given = settings(environment, role)
    told = store.environment(given, str(tmp_path), {"MC_RPC_TIMEOUT_MS": "300", "MOONCAKE_CONFIG_PATH": "/seed.json"})

    assert told["MC_RPC_TIMEOUT_MS"] == "300", "an operator's value stays"
    assert told["MC_RPC_CONNECT_TIMEOUT_MS"] == "500"
    assert told["MC_TCP_ENABLE_CONNECTION_POOL"] == "1", "else each buffer of a load opens a connection"
    file = json.loads(Path(told["MOONCAKE_CONFIG_PATH"]).read_text())
    assert file["master_server_address"] == MASTER
    assert (file["mode"], file["global_segment_size"]) == ("standalone-store", 0)


@pytest.mark.parametrize(
    ("version", "variable", "fewest"),
    [("0.32.0+cpu", {}, 0), ("0.33.0", {}, 1536), ("0.33.0", {"STORE_LOAD_MIN_TOKENS": "0"}, 0)],
)
def test_what_is_worth_a_load_follows_what_was_measured(
    environment: pytest.MonkeyPatch, version: str, variable: dict[str, str], fewest: int
) -> None:
    environment.setattr(vllm_command, "vllm_version", lambda: version)
    _, stores = children(settings(environment, "producer", **variable))
    assert stores["kv_connector_extra_config"]["load_min_tokens"] == fewest


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"STORE_MASTER": "somewhere"}, "STORE_MASTER='somewhere': expected host:port of a mooncake_master"),
        (
            {"STORE_LOAD_TIMEOUT_S": "40"},
            "STORE_LOAD_TIMEOUT_S=40: expected at most half of TRANSFER_TIMEOUT_S=60",
        ),
        ({"STORE_LOOKUP_TIMEOUT_S": "30"}, "STORE_LOOKUP_TIMEOUT_S='30': "),
    ],
)
def test_what_cannot_work_is_refused(environment: pytest.MonkeyPatch, variables: dict[str, str], line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settings(environment, "producer", **variables)

    assert [found.startswith(line) for found in refused.value.lines] == [True], refused.value.lines


def test_dispatch_tells_stores_apart_as_their_keys_do(environment: pytest.MonkeyPatch) -> None:
    given = settings(environment, "producer")
    pairing = vllm_command.pairing(given)
    assert store.shared(given, pairing, "0.32.0") == f"{MASTER}/{store.cache_prefix(given, pairing, '0.32.0')}"
    assert store.shared(given.model_copy(update={"store_master": ""}), pairing, "0.32.0") == ""


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({"STORE_MASTERS": "2", "ETCD_ENDPOINT": "http://10.0.0.7:2379/"}, "etcd://10.0.0.7:2379"),
        ({"STORE_MASTER": "etcd://10.0.0.8:2379", "ETCD_ENDPOINT": "10.0.0.7:2379"}, "etcd://10.0.0.8:2379"),
    ],
)
def test_of_two_masters_the_leader_is_found_in_etcd(
    environment: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], address: str
) -> None:
    given = settings(environment, "producer", **variables)
    told = store.environment(given, str(tmp_path), {})

    assert json.loads((tmp_path / "store.json").read_text())["master_server_address"] == address
    assert told["MC_STORE_CLUSTER_ID"] == "pd-stack"
    assert store.shared(given, {}, "0.32.0").startswith(address + "/")


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("STORE_MASTER", "nowhere", "expected host:port of a mooncake_master"),
        ("STORE_MASTER", "etcd://10.0.0.7:2379;10.0.0.8:2379", "expected one plain-text endpoint"),
        ("STORE_MASTERS", "3", "less than or equal to 2"),
    ],
)
def test_a_store_that_cannot_be_is_refused_by_name(
    environment: pytest.MonkeyPatch, name: str, value: str, needed: str
) -> None:
    with pytest.raises(ConfigError, match=f"{name}='{re.escape(value)}'.*{needed}"):
        settings(environment, "producer", **{name: value})
