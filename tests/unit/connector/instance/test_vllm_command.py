"""The command line and environment of the vLLM server, on a CPU and on a GPU build."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from connector.instance import vllm_command
from connector.vllm_hooks.options import ConnectorOptions
from stack.configuration.environment import load
from stack.instances.record import Engine
from stack.instances.settings import LauncherSettings


@pytest.fixture(params=["cpu", "gpu"])
def hardware(request: pytest.FixtureRequest, environment: pytest.MonkeyPatch) -> str:
    version = {"cpu": "0.32.0+cpu", "gpu": "0.32.0"}[request.param]
    environment.setattr(vllm_command, "vllm_version", lambda: version)
    return str(request.param)


@pytest.fixture
def on_cpu(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(vllm_command, "vllm_version", lambda: "0.32.0+cpu")


@pytest.fixture
def on_gpu(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(vllm_command, "vllm_version", lambda: "0.32.0")


def settings(environment: pytest.MonkeyPatch, **variables: str) -> LauncherSettings:
    for name, value in variables.items():
        environment.setenv(name, value)
    return load(LauncherSettings)


def options(words: list[str]) -> dict[str, str | None]:
    """`--name value` pairs of a command line; None for a flag without a value."""
    found: dict[str, str | None] = {}
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--"):
            found[word] = None if following.startswith("--") else following
    return found


def transfer_config(words: list[str]) -> dict[str, Any]:
    return dict(json.loads(words[words.index("--kv-transfer-config") + 1]))


@pytest.mark.parametrize(
    ("role", "streaming", "kv_role", "layerwise", "control_port"),
    [
        ("producer", "layer", "kv_producer", True, 13003),
        ("producer", "chunk", "kv_producer", False, 13003),
        ("consumer", "layer", "kv_consumer", False, 13503),
    ],
)
@pytest.mark.usefixtures("hardware")
def test_kv_transfer_by_role(
    environment: pytest.MonkeyPatch, role: str, streaming: str, kv_role: str, layerwise: bool, control_port: int
) -> None:
    given = settings(environment, VLLM_DISTRIBUTED_KV_ROLE=role, KV_STREAMING=streaming, KV_LOAD_FAILURE_POLICY="fail")
    config = transfer_config(vllm_command.command(given, "the-instance"))
    assert config["kv_role"] == kv_role
    assert config["engine_id"] == "the-instance"
    assert config["kv_load_failure_policy"] == "fail"
    read = ConnectorOptions.from_extra_config(config["kv_connector_extra_config"])
    assert (read.host, read.control_port, read.layerwise) == ("10.0.0.1", control_port, layerwise)
    assert (read.transport, read.metadata_server) == ("tcp", "127.0.0.1:2379")


@pytest.mark.parametrize("role", ["producer", "consumer"])
@pytest.mark.usefixtures("hardware")
def test_an_aggregated_server_differs_by_the_connector_alone(environment: pytest.MonkeyPatch, role: str) -> None:
    """A producer by the order of its prompts too. Or a comparison with the baseline would compare something else."""
    common = {"PREFILL_PORT": "8100", "DECODE_PORT": "8100", "AGGREGATED_PORT": "8100", "OPENAI_API_KEY": "sk"}
    common |= {"TENSOR_PARALLEL_SIZE": "2", "VLLM_EXTRA_ARGS": "--max-num-seqs 4 --load-format dummy"}
    disaggregated = settings(environment, VLLM_DISTRIBUTED_KV_ROLE=role, **common)
    aggregated = settings(environment, VLLM_DISTRIBUTED_KV_ROLE="aggregated")

    words = vllm_command.command(disaggregated, "i")
    own = {"producer": "--scheduling-policy", "consumer": "--scheduler-cls"}[role]
    for option in ("--kv-transfer-config", "--middleware", own):
        del words[words.index(option) : words.index(option) + 2]
    assert words == vllm_command.command(aggregated, "i")

    inherited = {"HF_HOME": "/cache", "OMP_NUM_THREADS": "3"}
    variables = vllm_command.environment(disaggregated, inherited)
    del variables["STACK_KEY"]
    assert variables == vllm_command.environment(aggregated, inherited)


@pytest.mark.parametrize(("role", "policy"), [("producer", "priority"), ("consumer", None), ("aggregated", None)])
@pytest.mark.usefixtures("hardware")
def test_producers_alone_go_by_priority(environment: pytest.MonkeyPatch, role: str, policy: str | None) -> None:
    given = settings(environment, VLLM_DISTRIBUTED_KV_ROLE=role)
    assert options(vllm_command.command(given, "i")).get("--scheduling-policy") == policy


@pytest.mark.usefixtures("hardware")
def test_a_users_own_policy_comes_last(environment: pytest.MonkeyPatch) -> None:
    """Which is the one that vLLM takes."""
    given = settings(environment, VLLM_EXTRA_ARGS="--scheduling-policy fcfs")
    assert vllm_command.command(given, "i")[-2:] == ["--scheduling-policy", "fcfs"]


@pytest.mark.usefixtures("hardware")
def test_what_may_be_set_of_a_transfer(environment: pytest.MonkeyPatch) -> None:
    given = settings(
        environment,
        MOONCAKE_PROTOCOL="auto",
        KV_STREAM_MIN_TOKENS="64",
        TRANSFER_CHECKSUM="true",
        TRANSFER_TIMEOUT_S="1",
        TRANSFER_PATIENCE_S="2",
        TRANSFER_CANCEL_TIMEOUT_S="10",
    )
    config = transfer_config(vllm_command.command(given, "i"))
    read = ConnectorOptions.from_extra_config(config["kv_connector_extra_config"])
    assert (read.transport, read.min_stream_tokens, read.checksum) == ("auto", 64, True)
    assert (read.timeout, read.patience, read.cancel_timeout) == (1, 2, 10)


@pytest.mark.usefixtures("hardware")
def test_no_secret_is_in_the_command_line(environment: pytest.MonkeyPatch) -> None:
    """Every user of the machine can read it."""
    given = settings(environment, OPENAI_API_KEY="sk-very-secret")
    words = " ".join(vllm_command.command(given, "i"))
    assert "sk-very-secret" not in words
    assert given.secret not in words


@pytest.mark.parametrize(("role", "port"), [("producer", "8101"), ("consumer", "8201")])
@pytest.mark.usefixtures("on_cpu")
def test_flags_on_a_cpu(environment: pytest.MonkeyPatch, role: str, port: str) -> None:
    given = settings(environment, VLLM_DISTRIBUTED_KV_ROLE=role, INSTANCE_INDEX="1", MODEL="/models/q", DTYPE="float32")
    found = options(vllm_command.command(given, "i"))
    expected = {
        "--host": "10.0.0.1",
        "--port": port,
        "--model": "/models/q",
        "--served-model-name": "/models/q",
        "--dtype": "float32",
        "--block-size": "32",
        "--kv-cache-memory-bytes": str(512 << 20),
        "--enforce-eager": None,
        "--distributed-executor-backend": "uni",
    }
    assert {name: found[name] for name in expected} == expected
    assert "--gpu-memory-utilization" not in found


@pytest.mark.usefixtures("on_gpu")
def test_flags_on_a_gpu(environment: pytest.MonkeyPatch) -> None:
    given = settings(environment, LISTEN_HOST="0.0.0.0", GPU_MEMORY_UTILIZATION="0.5", TENSOR_PARALLEL_SIZE="2")
    found = options(vllm_command.command(given, "i"))
    assert (found["--host"], found["--gpu-memory-utilization"], found["--dtype"]) == ("0.0.0.0", "0.5", "auto")
    assert found["--tensor-parallel-size"] == "2"
    assert not {"--kv-cache-memory-bytes", "--enforce-eager", "--distributed-executor-backend"} & set(found)


@pytest.mark.usefixtures("on_cpu")
def test_several_cpu_ranks_need_vllms_own_executor(environment: pytest.MonkeyPatch) -> None:
    given = settings(environment, TENSOR_PARALLEL_SIZE="2")
    assert "--distributed-executor-backend" not in options(vllm_command.command(given, "i"))
    found = vllm_command.environment(given, {})
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in found
    assert (found["VLLM_CPU_OMP_THREADS_BIND"], found["OMP_NUM_THREADS"]) == ("nobind", "1")


@pytest.mark.usefixtures("hardware")
def test_ranks_meet_on_the_loopback(environment: pytest.MonkeyPatch) -> None:
    assert "GLOO_SOCKET_IFNAME" not in vllm_command.environment(settings(environment), {})
    found = vllm_command.environment(settings(environment, TENSOR_PARALLEL_SIZE="2"), {})
    assert found["GLOO_SOCKET_IFNAME"] == "lo"


@pytest.mark.usefixtures("on_cpu")
def test_extra_arguments_come_last_and_so_win(environment: pytest.MonkeyPatch) -> None:
    given = settings(environment, VLLM_EXTRA_ARGS="--max-num-seqs 4 --chat-template 'a b.jinja'")
    assert vllm_command.command(given, "i")[-4:] == ["--max-num-seqs", "4", "--chat-template", "a b.jinja"]


@pytest.mark.usefixtures("on_cpu")
def test_each_rank_has_its_control_address(environment: pytest.MonkeyPatch) -> None:
    given = settings(environment, TENSOR_PARALLEL_SIZE="2", INSTANCE_INDEX="1")
    assert vllm_command.control_addresses(given) == ["tcp://10.0.0.1:13019", "tcp://10.0.0.1:13020"]


@pytest.mark.usefixtures("on_cpu")
def test_a_record_lists_data_parallel_engines(environment: pytest.MonkeyPatch) -> None:
    """Each as vLLM names it, with its own ranks' addresses, and what a request says to reach it."""
    given = settings(environment, TENSOR_PARALLEL_SIZE="2", VLLM_EXTRA_ARGS="--data-parallel-size 2")
    assert vllm_command.kv_transfer(given, "i") == {}
    assert vllm_command.engines(given, "i") == tuple(
        Engine(
            rank=rank,
            pin=rank,
            kv_transfer={
                "engine_id": f"i_dp{rank}",
                "control": [f"tcp://10.0.0.1:{port}", f"tcp://10.0.0.1:{port + 1}"],
                "pipeline_parallel_size": 1,
            },
        )
        for rank, port in ((0, 13003), (1, 13005))
    )


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("arguments", "engines"),
    [
        ("", []),
        ("-dp 4 -dph -dpl 2 -dpr 2", [(2, 0, "i_dp2"), (3, 1, "i_dp3")]),  # vLLM counts from this server's first one
        ("-dp 4 -dpn 3", [(3, None, "i_dp3")]),
    ],
)
def test_engines_of_a_server_that_has_a_part_of_them(
    environment: pytest.MonkeyPatch, arguments: str, engines: list[tuple[int, int | None, str]]
) -> None:
    found = vllm_command.engines(settings(environment, VLLM_EXTRA_ARGS=arguments), "i")
    assert [(each.rank, each.pin, each.kv_transfer["engine_id"]) for each in found] == engines


@pytest.mark.usefixtures("on_cpu")
def test_an_aggregated_servers_engines_have_nothing_of_a_transfer(environment: pytest.MonkeyPatch) -> None:
    given = settings(environment, VLLM_DISTRIBUTED_KV_ROLE="aggregated", VLLM_EXTRA_ARGS="-dp 2")
    assert vllm_command.engines(given, "i") == (Engine(rank=0, pin=0), Engine(rank=1, pin=1))


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("parallel", ["--data-parallel-size 2", "--enable-expert-parallel"])
def test_how_a_model_is_spread_is_no_part_of_the_pairing(environment: pytest.MonkeyPatch, parallel: str) -> None:
    alone = vllm_command.pairing(settings(environment))
    assert vllm_command.pairing(settings(environment, VLLM_EXTRA_ARGS=parallel)) == alone


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("arguments", "in_one_process", "interface"),
    [("", "0", None), ("-dp 2", None, "lo"), ("-dp 4 -dph -dpl 2 -dpr 2", None, None)],
)
def test_engines_are_processes_of_their_own(
    environment: pytest.MonkeyPatch, arguments: str, in_one_process: str | None, interface: str | None
) -> None:
    """Those of several hosts cannot meet on loopback."""
    found = vllm_command.environment(settings(environment, VLLM_EXTRA_ARGS=arguments), {})
    assert (found.get("VLLM_ENABLE_V1_MULTIPROCESSING"), found.get("GLOO_SOCKET_IFNAME")) == (in_one_process, interface)


@pytest.mark.usefixtures("hardware")
def test_a_pipeline_has_ranks_in_each_stage(environment: pytest.MonkeyPatch) -> None:
    given = settings(environment, TENSOR_PARALLEL_SIZE="2", PIPELINE_PARALLEL_SIZE="3")
    words = vllm_command.command(given, "i")
    assert (options(words)["--tensor-parallel-size"], options(words)["--pipeline-parallel-size"]) == ("2", "3")
    assert [address.rpartition(":")[2] for address in vllm_command.control_addresses(given)] == [
        str(port) for port in range(13003, 13009)
    ]
    read = ConnectorOptions.from_extra_config(transfer_config(words)["kv_connector_extra_config"])
    assert read.pipeline_parallel_size == 3
    read.refuse_other_stages(3)


@pytest.mark.parametrize("size", ["TENSOR_PARALLEL_SIZE", "PIPELINE_PARALLEL_SIZE"])
@pytest.mark.usefixtures("on_cpu")
def test_cpu_ranks_of_a_pipeline_are_processes_too(environment: pytest.MonkeyPatch, size: str) -> None:
    given = settings(environment, **{size: "2"})
    assert "--distributed-executor-backend" not in options(vllm_command.command(given, "i"))
    found = vllm_command.environment(given, {})
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in found
    assert found["GLOO_SOCKET_IFNAME"] == "lo"


@pytest.mark.usefixtures("hardware")
def test_variables_that_mean_something_else_to_vllm_are_removed(environment: pytest.MonkeyPatch) -> None:
    removed = ("VLLM_PORT", "MASTER_ADDR", "MASTER_PORT", "VLLM_DISTRIBUTED_KV_ROLE")
    inherited = dict.fromkeys(removed, "1") | {"HF_HOME": "/cache", "VLLM_HOST_IP": "", "PYTHONPATH": "/more"}
    found = vllm_command.environment(settings(environment), inherited)
    assert not set(removed) & set(found)
    assert (found["HF_HOME"], found["VLLM_HOST_IP"], found["STACK_KEY"]) == ("/cache", "10.0.0.1", "0123456789abcdef")
    assert found["PYTHONPATH"] == f"{vllm_command.REPOSITORY}:/more"


@pytest.mark.usefixtures("hardware")
def test_vllm_demands_a_key_only_when_one_is_set(environment: pytest.MonkeyPatch) -> None:
    assert "VLLM_API_KEY" not in vllm_command.environment(settings(environment), {})
    assert vllm_command.environment(settings(environment, OPENAI_API_KEY="sk"), {})["VLLM_API_KEY"] == "sk"


def test_cpu_settings_do_not_reach_a_gpu(environment: pytest.MonkeyPatch, hardware: str) -> None:
    found = vllm_command.environment(settings(environment), {"OMP_NUM_THREADS": "3"})
    assert found["OMP_NUM_THREADS"] == "3"
    assert ("VLLM_ENABLE_V1_MULTIPROCESSING" in found) == (hardware == "cpu")
    assert found.get("VLLM_CPU_OMP_THREADS_BIND") == ("nobind" if hardware == "cpu" else None)


@pytest.mark.parametrize(
    ("flags", "asked", "expected"),
    [
        ("avx2 avx512f", "auto", "float32"),
        ("avx512f avx512_bf16", "auto", "auto"),
        ("amx_bf16", "auto", "auto"),
        ("avx2", "bfloat16", "bfloat16"),
    ],
)
@pytest.mark.usefixtures("on_cpu")
def test_dtype_on_a_cpu(environment: pytest.MonkeyPatch, flags: str, asked: str, expected: str) -> None:
    given = settings(environment, DTYPE=asked)
    environment.setattr(Path, "read_text", lambda _: f"flags\t\t: {flags}\n")
    assert vllm_command.dtype(given) == expected


@pytest.mark.usefixtures("on_gpu")
def test_instances_pair_when_model_type_and_blocks_are_equal(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    producer = vllm_command.pairing(settings(environment, MODEL=str(tmp_path)))
    consumer = vllm_command.pairing(settings(environment, VLLM_DISTRIBUTED_KV_ROLE="consumer", INSTANCE_INDEX="1"))
    assert producer == consumer
    with pytest.MonkeyPatch.context() as wider:
        assert vllm_command.pairing(settings(wider, TENSOR_PARALLEL_SIZE="2")) == producer
    others = {
        "block size": {"BLOCK_SIZE": "16"},
        "dtype": {"DTYPE": "float16"},
        "--quantization": {"VLLM_EXTRA_ARGS": "--max-num-seqs 4 --quantization fp8"},
        "draft": {"VLLM_EXTRA_ARGS": "--spec-method mtp --spec-tokens 1"},
    }
    for name, other in others.items():
        with pytest.MonkeyPatch.context() as changed:
            assert differing(vllm_command.pairing(settings(changed, **other)), producer) == {name}
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 30}')
    assert differing(vllm_command.pairing(load(LauncherSettings)), producer) == {"configuration"}


def differing(one: dict[str, str], other: dict[str, str]) -> set[str]:
    return {name for name in one | other if one.get(name) != other.get(name)}


@pytest.mark.usefixtures("on_cpu")
def test_cpus_whose_instructions_differ_do_not_pair(environment: pytest.MonkeyPatch) -> None:
    """vLLM orders the values of a block for the instructions that will read it."""
    given = settings(environment, DTYPE="bfloat16")
    found = set()
    for flags in ("avx2", "avx2 avx512f", "avx2 avx512f amx_bf16"):
        environment.setattr(vllm_command, "_cpu_flags", lambda flags=flags: set(flags.split()))
        found.add(vllm_command.pairing(given)["instructions"])
    assert len(found) == 3


@pytest.mark.usefixtures("hardware")
def test_the_connector_gets_one_word_for_it(environment: pytest.MonkeyPatch) -> None:
    words: dict[str, set[str]] = {}
    for size in ("16", "32", "32"):
        given = settings(environment, BLOCK_SIZE=size)
        config = transfer_config(vllm_command.command(given, "i"))["kv_connector_extra_config"]
        words.setdefault(size, set()).add(config["pairing"])
    assert [len(found) for found in words.values()] == [1, 1]
    assert words["16"] != words["32"]


@pytest.mark.parametrize(
    ("role", "switch", "given"),
    [
        ("consumer", "true", True),
        ("consumer", "false", False),
        ("producer", "true", False),
        ("aggregated", "true", False),
    ],
)
@pytest.mark.usefixtures("hardware")
def test_a_consumers_scheduler_takes_first_tokens(
    environment: pytest.MonkeyPatch, role: str, switch: str, given: bool
) -> None:
    found = settings(environment, VLLM_DISTRIBUTED_KV_ROLE=role, TRANSFER_FIRST_TOKEN=switch)
    words = vllm_command.command(found, "i")
    assert ("--scheduler-cls" in words) is given
    if given:
        module, _, name = words[words.index("--scheduler-cls") + 1].rpartition(".")
        source = vllm_command.REPOSITORY / (module.replace(".", "/") + ".py")
        assert f"def {name}(" in source.read_text()


@pytest.mark.usefixtures("hardware")
def test_vllm_finds_the_connector_and_nothing_of_it_as_a_package_of_its_own(environment: pytest.MonkeyPatch) -> None:
    """`connector/mooncake` on the path would stand before Mooncake."""
    first = vllm_command.environment(load(LauncherSettings), os.environ)["PYTHONPATH"].split(":")[0]
    assert (Path(first) / "connector" / "vllm_hooks" / "kv_connector.py").is_file()
    assert not (Path(first) / "mooncake").exists()


@pytest.mark.usefixtures("hardware")
@pytest.mark.parametrize("endpoint", ["", "http://collector:4318", "http://collector:4318/"])
def test_vllm_traces_to_where_the_proxy_does(environment: pytest.MonkeyPatch, endpoint: str) -> None:
    environment.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
    given = settings(environment, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    words = options(vllm_command.command(given, "i"))
    assert words.get("--otlp-traces-endpoint") == ("http://collector:4318/v1/traces" if endpoint else None)
    variables = vllm_command.environment(given, os.environ)
    if endpoint:
        assert variables["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf"
        assert variables["OTEL_SERVICE_NAME"] == f"pd-{given.role}"
        assert variables["OTEL_RESOURCE_ATTRIBUTES"].endswith(f":{given.port}")
    environment.setenv("OTEL_SERVICE_NAME", "mine")
    assert vllm_command.environment(given, os.environ)["OTEL_SERVICE_NAME"] == "mine"
