import json
from pathlib import Path

import pytest

from connector.control.control_key import ControlKey
from stack.configuration.environment import ConfigError, load
from stack.instances.settings import SHORTEST_SECRET, LauncherSettings

SEED = {
    "prefill_url": "192.168.0.137:13003",
    "decode_url": "192.168.0.139:13503",
    "metadata_server": "192.168.0.139:2379",
    "protocol": "rdma",
    "device_name": "erdma_0",
}


def settings(environment: pytest.MonkeyPatch, variables: dict[str, str]) -> LauncherSettings:
    for name, value in variables.items():
        environment.setenv(name, value)
    return load(LauncherSettings)


def error_lines(environment: pytest.MonkeyPatch, variables: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        settings(environment, variables)
    return raised.value.lines


@pytest.mark.parametrize(
    ("variables", "role", "port", "control_port"),
    [
        ({}, "prefill", 8100, 13003),
        ({"INSTANCE_INDEX": "2"}, "prefill", 8102, 13035),
        ({"PREFILL_PORT": "9000", "DECODE_PORT": "9100"}, "prefill", 9000, 13003),
        ({"VLLM_DISTRIBUTED_KV_ROLE": "consumer"}, "decode", 8200, 13503),
        ({"VLLM_DISTRIBUTED_KV_ROLE": "consumer", "DECODE_PORT": "9100", "INSTANCE_INDEX": "1"}, "decode", 9101, 13519),
        ({"CONTROL_PORT": "14000", "INSTANCE_INDEX": "1"}, "prefill", 8101, 14016),
    ],
)
def test_role_and_ports(
    environment: pytest.MonkeyPatch, variables: dict[str, str], role: str, port: int, control_port: int
) -> None:
    found = settings(environment, variables)
    assert (found.role, found.port, found.control_ports.start) == (role, port, control_port)
    assert found.host == "10.0.0.1"


def test_an_aggregated_server_needs_neither_a_key_nor_control_ports(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.delenv("STACK_KEY")
    role = {"VLLM_DISTRIBUTED_KV_ROLE": "aggregated", "AGGREGATED_PORT": "9200", "INSTANCE_INDEX": "1"}
    found = settings(environment, {**role, "CONTROL_PORT": "65535", "STACK_KEY_FILE": str(tmp_path / "no.key")})
    assert (found.role, found.port, found.control_ports) == ("aggregated", 9201, range(0))
    assert (found.host, found.etcd) == ("10.0.0.1", "127.0.0.1:2379")


def test_mooncake_settings_from_variables(environment: pytest.MonkeyPatch) -> None:
    mooncake = settings(
        environment,
        {"ETCD_ENDPOINT": "http://etcd", "MOONCAKE_PROTOCOL": "rdma", "MOONCAKE_DEVICE_NAME": "mlx5_0,mlx5_1"},
    ).mooncake
    assert mooncake.model_dump() == {
        "prefill_url": "10.0.0.1:13003",
        "decode_url": "10.0.0.1:13503",
        "metadata_server": "etcd:2379",
        "protocol": "rdma",
        "device_name": "mlx5_0,mlx5_1",
    }


@pytest.mark.parametrize(
    ("role", "host", "control_port"),
    [("producer", "192.168.0.137", 13003), ("consumer", "192.168.0.139", 13503)],
)
def test_the_seed_documents_file_wins_over_variables(
    environment: pytest.MonkeyPatch, tmp_path: Path, role: str, host: str, control_port: int
) -> None:
    file = tmp_path / "mooncake.json"
    file.write_text(json.dumps(SEED))
    environment.delenv("VLLM_HOST_IP")
    found = settings(
        environment,
        {
            "VLLM_DISTRIBUTED_KV_ROLE": role,
            "MOONCAKE_CONFIG_PATH": str(file),
            "MOONCAKE_PROTOCOL": "tcp",
            "ETCD_ENDPOINT": "elsewhere:1",
            "CONTROL_PORT": "1",
        },
    )
    assert found.mooncake.model_dump() == SEED
    assert (found.host, found.control_ports.start) == (host, control_port)
    assert found.etcd == "elsewhere:1"
    environment.delenv("ETCD_ENDPOINT")
    assert load(LauncherSettings).etcd == SEED["metadata_server"]
    environment.setenv("VLLM_HOST_IP", "10.9.9.9")  # an instance's own address is its own
    assert load(LauncherSettings).host == "10.9.9.9"


def test_without_an_address_it_is_the_one_of_the_own_name(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("VLLM_HOST_IP")
    environment.setattr("stack.network.addresses.look_up", lambda name: "172.17.0.5")
    assert load(LauncherSettings).host == "172.17.0.5"


@pytest.mark.parametrize(
    ("variables", "host", "prefill_url", "metadata_server"),
    [
        ({"VLLM_HOST_IP": "::1"}, "::1", "[::1]:13003", "127.0.0.1:2379"),
        ({"VLLM_HOST_IP": "[::1]", "ETCD_ENDPOINT": "[::1]:2379"}, "::1", "[::1]:13003", "[::1]:2379"),
        ({"VLLM_HOST_IP": "localhost"}, "127.0.0.1", "127.0.0.1:13003", "127.0.0.1:2379"),
        ({"ETCD_ENDPOINT": "http://[fd00::9]/"}, "10.0.0.1", "10.0.0.1:13003", "[fd00::9]:2379"),
        ({"ETCD_ENDPOINT": "box:2379"}, "10.0.0.1", "10.0.0.1:13003", "box:2379"),
    ],
)
def test_addresses_are_numbers_and_those_of_ipv6_stand_in_brackets_before_a_port(
    environment: pytest.MonkeyPatch, variables: dict[str, str], host: str, prefill_url: str, metadata_server: str
) -> None:
    found = settings(environment, variables)
    assert (found.host, found.control_ports.start) == (host, 13003)
    assert (found.mooncake.prefill_url, found.mooncake.metadata_server) == (prefill_url, metadata_server)


@pytest.mark.parametrize(("url", "host"), [("[::1]:13003", "::1"), ("localhost:13003", "127.0.0.1")])
def test_the_host_of_mooncakes_file_is_an_address_too(
    environment: pytest.MonkeyPatch, tmp_path: Path, url: str, host: str
) -> None:
    file = tmp_path / "mooncake.json"
    file.write_text(json.dumps(SEED | {"prefill_url": url}))
    environment.delenv("VLLM_HOST_IP")
    found = settings(environment, {"MOONCAKE_CONFIG_PATH": str(file)})
    assert (found.host, found.control_ports.start) == (host, 13003)


@pytest.mark.parametrize(
    ("variables", "path", "served"),
    [
        ({"MODEL_DIR": "/models"}, "/models/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct"),
        ({"MODEL": "/models/qwen"}, "/models/qwen", "/models/qwen"),
        ({"MODEL": "Qwen/Qwen2.5-7B", "SERVED_MODEL_NAME": "qwen"}, "Qwen/Qwen2.5-7B", "qwen"),
    ],
)
def test_model(environment: pytest.MonkeyPatch, variables: dict[str, str], path: str, served: str) -> None:
    found = settings(environment, variables)
    assert (found.model_path, found.served_name) == (path, served)


def test_the_key_may_lie_in_a_file(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "stack.key"
    file.write_text("from the file, long enough\n")
    assert settings(environment, {"STACK_KEY_FILE": str(file)}).secret == "0123456789abcdef"
    environment.delenv("STACK_KEY")
    assert load(LauncherSettings).secret == "from the file, long enough"


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("VLLM_DISTRIBUTED_KV_ROLE", "both", "'producer', 'consumer' or 'aggregated'"),
        ("INSTANCE_INDEX", "-1", "greater than or equal to 0"),
        ("PREFILL_PORT", "80800", "less than or equal to 65535"),
        ("MOONCAKE_PROTOCOL", "rmda", "'auto', 'tcp', 'rdma' or 'nvlink_intra'"),
        ("TENSOR_PARALLEL_SIZE", "17", "less than or equal to 16"),
        ("TRANSFER_CHECKSUM", "perhaps", "valid boolean"),
        ("KV_STREAM_MIN_TOKENS", "-1", "greater than or equal to 0"),
        ("DTYPE", "int8", "'bfloat16'"),
        ("GPU_MEMORY_UTILIZATION", "90", "less than or equal to 1"),
        ("KV_CACHE_BYTES", "4GB", "valid integer"),
        ("LEASE_TTL_S", "1", "greater than or equal to 2"),
        ("TRANSFER_TIMEOUT_S", "0", "greater than 0"),
        ("ETCD_ENDPOINT", "http://:1", "expected one plain-text endpoint"),
        ("ETCD_ENDPOINT", "127.0.0.1:2379;127.0.0.1:22379", "expected one plain-text endpoint"),
        ("ETCD_ENDPOINT", "https://127.0.0.1:2379", "expected one plain-text endpoint"),
        ("VLLM_HOST_IP", "tcp://10.0.0.1", "expected an IP address or a host name"),
        ("VLLM_HOST_IP", "0.0.0.0", "expected the one address at which others reach this host"),
        ("LISTEN_HOST", "a..b", "expected an IP address or the name of a host, found none of that name"),
        ("VLLM_EXTRA_ARGS", "--name 'x", "No closing quotation"),
        ("MOONCAKE_CONFIG_PATH", "/no/mooncake.json", "cannot be read: No such file or directory"),
    ],
)
def test_a_bad_value_is_one_line(environment: pytest.MonkeyPatch, name: str, value: str, right: str) -> None:
    (line,) = error_lines(environment, {name: value})
    assert line.startswith(f"{name}={value!r}: ")
    assert right in line


def test_every_bad_value_has_its_line(environment: pytest.MonkeyPatch) -> None:
    lines = error_lines(environment, {"BLOCK_SIZE": "0", "MAX_MODEL_LEN": "many"})
    assert [line.partition("=")[0] for line in lines] == ["MAX_MODEL_LEN", "BLOCK_SIZE"]


@pytest.mark.parametrize(
    ("missing", "text"),
    [("VLLM_DISTRIBUTED_KV_ROLE", "VLLM_DISTRIBUTED_KV_ROLE is unset"), ("STACK_KEY", "STACK_KEY_FILE=")],
)
def test_what_is_missing_is_named_and_no_secret_is_shown(
    environment: pytest.MonkeyPatch, tmp_path: Path, missing: str, text: str
) -> None:
    environment.delenv(missing)
    (line,) = error_lines(
        environment, {"OPENAI_API_KEY": "sk-very-secret", "STACK_KEY_FILE": str(tmp_path / "stack.key")}
    )
    assert line.startswith(text)
    assert "sk-very-secret" not in line
    assert "0123456789abcdef" not in line


@pytest.mark.parametrize(
    ("variables", "last"),
    [
        ({"INSTANCE_INDEX": "3284"}, 65547),
        ({"CONTROL_PORT": "65534", "TENSOR_PARALLEL_SIZE": "3"}, 65536),
        ({"CONTROL_PORT": "65533", "TENSOR_PARALLEL_SIZE": "2", "PIPELINE_PARALLEL_SIZE": "2"}, 65536),
        ({"PREFILL_PORT": "65535", "INSTANCE_INDEX": "1"}, 65536),
        ({"VLLM_DISTRIBUTED_KV_ROLE": "consumer", "DECODE_PORT": "65530", "INSTANCE_INDEX": "6"}, 65536),
        ({"VLLM_DISTRIBUTED_KV_ROLE": "aggregated", "AGGREGATED_PORT": "65530", "INSTANCE_INDEX": "6"}, 65536),
    ],
)
def test_ports_that_do_not_exist(environment: pytest.MonkeyPatch, variables: dict[str, str], last: int) -> None:
    (line,) = error_lines(environment, variables)
    assert line.startswith(f"INSTANCE_INDEX={variables.get('INSTANCE_INDEX', '0')}: expected ports up to 65535")
    assert line.endswith(f"the last one is {last}")


def test_the_last_port_that_exists(environment: pytest.MonkeyPatch) -> None:
    found = settings(environment, {"CONTROL_PORT": "65520", "TENSOR_PARALLEL_SIZE": "16"})
    assert found.control_ports == range(65520, 65536)


def test_engines_have_ports_behind_one_another(environment: pytest.MonkeyPatch) -> None:
    variables = {"CONTROL_PORT": "20000", "TENSOR_PARALLEL_SIZE": "2", "INSTANCE_INDEX": "1"}
    found = settings(environment, variables | {"PREFILL_VLLM_EXTRA_ARGS": "--data-parallel-size 4"})
    assert found.control_ports == range(20016, 20024)


@pytest.mark.parametrize(
    ("role", "words"),
    [
        ("producer", ["--seed", "1", "--data-parallel-size", "2"]),
        ("consumer", ["--seed", "1", "--max-num-seqs", "4"]),
        ("aggregated", ["--seed", "1"]),
    ],
)
def test_a_roles_own_arguments_follow_those_of_all(
    environment: pytest.MonkeyPatch, role: str, words: list[str]
) -> None:
    given = {"VLLM_EXTRA_ARGS": "--seed 1", "VLLM_DISTRIBUTED_KV_ROLE": role}
    given |= {"PREFILL_VLLM_EXTRA_ARGS": "--data-parallel-size 2", "DECODE_VLLM_EXTRA_ARGS": "--max-num-seqs 4"}
    assert settings(environment, given).extra_words == words


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        (
            {"VLLM_EXTRA_ARGS": "-dp 4 --headless"},
            "VLLM_EXTRA_ARGS='-dp 4 --headless': --headless: its engines would be in no record",
        ),
        (
            {"VLLM_EXTRA_ARGS": "--api-key hunter2 --headless"},
            "VLLM_EXTRA_ARGS='--api-key *** --headless': --headless: its engines would be in no record",
        ),
        ({"DECODE_VLLM_EXTRA_ARGS": "-dp 4 -dpl 2"}, "DECODE_VLLM_EXTRA_ARGS='-dp 4 -dpl 2': --data-pa"),
        (
            {"TENSOR_PARALLEL_SIZE": "4", "PIPELINE_PARALLEL_SIZE": "5"},
            "TENSOR_PARALLEL_SIZE=4, PIPELINE_PARALLEL_SIZE=5: with 1 data-parallel engines here (VLLM_EXTRA_ARGS) "
            "these are 20 ranks, expected 16 or fewer",
        ),
        (
            {"VLLM_EXTRA_ARGS": "-dp 4", "TENSOR_PARALLEL_SIZE": "4", "PIPELINE_PARALLEL_SIZE": "2"},
            "TENSOR_PARALLEL_SIZE=4, PIPELINE_PARALLEL_SIZE=2: with 4 data-parallel engines here (VLLM_EXTRA_ARGS) "
            "these are 32 ranks, expected 16 or fewer",
        ),
    ],
)
def test_engines_that_cannot_be_served(environment: pytest.MonkeyPatch, variables: dict[str, str], text: str) -> None:
    (line,) = error_lines(environment, variables)
    assert line.startswith(text)


def test_a_short_key_is_not_shown(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (line,) = error_lines(environment, {"STACK_KEY": "sesame"})
    assert line.startswith("STACK_KEY: the key has 6 characters, expected 16 or more")
    file = tmp_path / "stack.key"
    file.write_text("sesame\n")
    environment.delenv("STACK_KEY")
    (from_file,) = error_lines(environment, {"STACK_KEY_FILE": str(file)})
    assert from_file.startswith(f"STACK_KEY_FILE={str(file)!r}: ")
    assert "sesame" not in line + from_file
    with pytest.raises(ValueError, match="STACK_KEY"):
        ControlKey.from_secret("x" * (SHORTEST_SECRET - 1))
    ControlKey.from_secret("x" * SHORTEST_SECRET)
