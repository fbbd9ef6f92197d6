"""helm lint, and one line for each value that cannot work, which never shows a secret."""

from typing import Any

import pytest

from tests.k8s.chart.rendering import EXAMPLES, KEY, Helm


@pytest.mark.parametrize("files", sorted({files for files, _ in EXAMPLES.values()}), ids="+".join)
def test_lint_finds_nothing(helm: Helm, files: tuple[str, ...]) -> None:
    answer = helm.lint(*files)
    assert answer.returncode == 0, answer.stdout
    assert "[WARNING]" not in answer.stdout
    assert "[ERROR]" not in answer.stdout


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"env": {"BLOCK_SIZE": 0}}, "- at '/env/BLOCK_SIZE': minimum: got 0, want 1"),
        (
            {"env": {"DTYPE": "int8"}},
            "- at '/env/DTYPE': value must be one of 'auto', 'float32', 'bfloat16', 'float16', ''",
        ),
        ({"env": {"PROXI_PORT": 1}}, "- at '/env': additional properties 'PROXI_PORT' not allowed"),
        ({"env": {"STACK_KEY": "short"}}, "- at '/env/STACK_KEY': minLength: got 5, want 16"),
        ({"prefill": {"replica": 2}}, "- at '/prefill': additional properties 'replica' not allowed"),
        ({"env": {"PREFILL_REPLICAS": 2}}, "env.PREFILL_REPLICAS: in Kubernetes this is prefill.replicas"),
        ({"env": {"MODEL_DIR": "/m"}}, "env.MODEL_DIR: in Kubernetes this is model.volume"),
        (
            {"env": {"PROXY_MAX_BODY_BYTES": 1 << 30}},
            "env.PROXY_MAX_BUFFERED_BYTES=134217728: expected at least PROXY_MAX_BODY_BYTES=1073741824",
        ),
        (
            {"env": {"LOADTEST_WORKLOAD": "trace"}},
            "env.LOADTEST_TRACE_FILE is unset: LOADTEST_WORKLOAD=trace sends this file",
        ),
        (
            {"env": {"LOADTEST_ARRIVALS": "trace", "LOADTEST_STAGES": "60:1"}},
            "env.LOADTEST_STAGES: with LOADTEST_ARRIVALS=trace the trace has the rate; unset one of them",
        ),
        (
            {"env": {"TENSOR_PARALLEL_SIZE": 8, "PIPELINE_PARALLEL_SIZE": 4}},
            "env.TENSOR_PARALLEL_SIZE=8, PIPELINE_PARALLEL_SIZE=4: these are 32 ranks, expected 16 or fewer",
        ),
        (
            {"env": {"OPENAI_API_KEY": "secret"}, "secret": {"existing": "keys"}},
            "env.OPENAI_API_KEY: secret.existing=keys has it; unset one of them",
        ),
        (
            {"env": {"PROXY_API_KEYS": "alice:secret,bob"}},
            "env.PROXY_API_KEYS, entry 2: expected name:key, the name of 1 to 64 of A-Z a-z 0-9 _ . -, "
            "the key of visible ASCII",
        ),
        *(
            ({"env": {name: "http://user:secret@h"}}, f"env.{name}: expected an address without a user and a password")
            for name in (
                *(
                    "ETCD_ENDPOINT",
                    "LOADTEST_TARGET",
                    "LOADTEST_TOKENIZER",
                    "OTEL_EXPORTER_OTLP_ENDPOINT",
                    "PROXY_PEERS",
                ),
            )
        ),
        (
            {"env": {"PROXY_PEERS": "a,b", "PROXY_WORKERS": 2}},
            "env.PROXY_PEERS=a,b: expected PROXY_WORKERS=1; raise proxy.replicas instead",
        ),
        (
            {"images": {"vllm": {"tag": "latest"}}},
            "images.vllm.tag=latest: expected a version, or a digest beside it; nobody knows what latest is tomorrow",
        ),
        (
            {"env": {"MOONCAKE_PROTOCOL": "nvlink_intra"}},
            "env.MOONCAKE_PROTOCOL=nvlink_intra: producer and consumer need one PID namespace; set pair.enabled, or "
            "instances.hostPID",
        ),
        (
            {"env": {"TENSOR_PARALLEL_SIZE": 2}, "decode": {"resources": {"limits": {"nvidia.com/gpu": 1}}}},
            "decode.resources.limits.nvidia.com/gpu=1: expected one for each of 2 ranks (env.TENSOR_PARALLEL_SIZE, "
            "env.PIPELINE_PARALLEL_SIZE)",
        ),
        (
            {"autoscaling": {"kind": "hpa"}, "pair": {"enabled": True}},
            "autoscaling.kind=hpa: the two roles of a pair cannot be scaled apart; unset pair.enabled",
        ),
        (
            {"autoscaling": {"kind": "hpa", "decode": {"minReplicas": 5}}},
            "autoscaling.decode.maxReplicas=4: expected at least minReplicas=5",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_work_gets_one_line(helm: Helm, values: dict[str, Any], line: str) -> None:
    told = [shown.strip() for shown in helm.refusal(values)]
    assert line in told
    assert not any("secret@" in shown or "alice:" in shown for shown in told)
    assert len([shown for shown in told if shown.startswith(("env.", "images.", "autoscaling.", "- at"))]) <= 2


def test_several_faults_are_told_at_once(helm: Helm) -> None:
    told = helm.refusal({"env": {"PREFILL_GPU": "0", "DECODE_GPU": "1"}})
    assert len([line for line in told if line.startswith("env.")]) == 2


def test_a_digest_beside_latest_is_fine(helm: Helm) -> None:
    assert helm.objects({**KEY, "images": {"vllm": {"tag": "latest", "digest": "sha256:" + "0" * 64}}})
