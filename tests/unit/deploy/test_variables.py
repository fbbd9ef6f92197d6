"""Every variable of .env.example is a value of the chart or says what is, and each program gets those that it reads."""

import re
from functools import cache
from typing import Any

import pytest
import yaml

from deploy.values_schema import CHART, schema, usage
from loadtest.settings import LoadTestSettings
from proxy.settings import ProxySettings
from stack.configuration.env_file import known_names
from stack.configuration.environment import Settings
from stack.diagnosis.facts import settings_classes
from stack.instances.settings import LauncherSettings
from stack.running.services import DECODE_CONTROL_OFFSET
from tests.unit.compose.test_compose_files import service

PROGRAMS: dict[str, type[Settings]] = {
    "instance": LauncherSettings,
    "proxy": ProxySettings,
    "loadtest": LoadTestSettings,
}
# compose.yaml hands these on as well; they are of programs that the image holds.
OF_OTHERS = {"OMP_NUM_THREADS", "VLLM_CPU_OMP_THREADS_BIND"}
# A template writes them into the container, from what it knows.
WRITTEN = {
    "instance": {
        "CONTROL_PORT",
        "ETCD_ENDPOINT",
        "LISTEN_HOST",
        "MODEL_DIR",
        "VLLM_DISTRIBUTED_KV_ROLE",
        "VLLM_HOST_IP",
    },
    "proxy": {"ETCD_ENDPOINT", "LOCUST_PORT", "PROXY_LISTEN_HOST", "PROXY_PEERS", "STACK_DIR"},
    "loadtest": {"LOADTEST_TARGET", "STACK_DIR"},
}
# What a program reads elsewhere than in a pod.
NOT_IN_A_POD = {
    "instance": {
        "AGGREGATED_PORT",
        "INSTANCE_INDEX",
        "MOONCAKE_CONFIG_PATH",
        "STACK_KEY_FILE",
        "STORE_LOAD_MIN_TOKENS",
        "STORE_LOAD_TIMEOUT_S",
        "STORE_LOOKUP_TIMEOUT_S",
        "STORE_MASTER",
        "STORE_MASTERS",
    },
    "proxy": {"BIND_ADDRESS", "PROXY_API_KEYS_FILE"},
    "loadtest": {"BIND_ADDRESS", "CONSOLE_PORT", "LISTEN_HOST", "LOADTEST_RUN_DIR", "LOCUST_PORT", "PROXY_PORT"},
}


@cache
def values() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return content


def told() -> set[str]:
    """Variables that are values."""
    return {name for program in usage()["programs"].values() for name in program} | {
        *usage()["secrets"],
        *usage()["templates"],
    }


def test_every_variable_of_the_example_is_a_value_or_says_which_value_is() -> None:
    assert told() & set(usage()["elsewhere"]) == set()
    of_the_example = {name for name in known_names() if not _is_mooncakes(name)}
    assert told() | set(usage()["elsewhere"]) == of_the_example | OF_OTHERS


def test_the_schema_knows_them_all_and_mooncakes_own() -> None:
    env = schema()["properties"]["env"]
    assert set(env["properties"]) == told() | set(usage()["elsewhere"])
    (pattern,) = env["patternProperties"]
    assert all(re.search(pattern, name) for name in known_names() if _is_mooncakes(name))


def _is_mooncakes(name: str) -> bool:
    return name.startswith("MC_")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_is_told_every_variable_that_it_reads(program: str) -> None:
    fields = {name.upper() for name in PROGRAMS[program].model_fields}
    listed = set(usage()["programs"][program])
    assert fields - NOT_IN_A_POD[program] - WRITTEN[program] - set(usage()["secrets"]) == listed & fields
    assert listed & (NOT_IN_A_POD[program] | WRITTEN[program]) == set()


def test_what_compose_hands_to_an_instance_the_chart_does_too() -> None:
    environment = set(service("prefill")["environment"])
    not_fields = environment - {name.upper() for name in LauncherSettings.model_fields}
    in_the_template = {"HF_HOME", "HF_HUB_OFFLINE", "HOME", "MODELSCOPE_CACHE", "NO_PROXY", "no_proxy"}
    mentioned = {*usage()["programs"]["instance"], *usage()["secrets"], *in_the_template}
    assert {name for name in not_fields if not _is_mooncakes(name)} <= mentioned


def test_defaults_that_the_chart_computes_with_are_the_settings_own() -> None:
    for name, value in usage()["defaults"].items():
        defaults = {
            settings.model_fields[name.lower()].default
            for settings in settings_classes()
            if name.lower() in settings.model_fields
        }
        assert defaults == {value}, name


def test_decodes_control_ports_are_as_far_from_prefills_as_elsewhere() -> None:
    assert (
        f'(ternary 0 {DECODE_CONTROL_OFFSET} (eq .role "prefill"))' in (CHART / "templates/_instance.tpl").read_text()
    )


@pytest.mark.parametrize("name", sorted(usage()["elsewhere"]))
def test_the_value_that_takes_a_variables_place_exists(name: str) -> None:
    words = usage()["elsewhere"][name]
    files = re.findall(r"values-\w+\.yaml", words)
    named = [word for word in re.findall(r"(?<![\w./-])[a-z]+\.[A-Za-z_]+(?![\w/])", words) if word != "e.g"]
    assert named or files or words.startswith("nothing here")
    assert all((CHART / file).exists() for file in files)
    for path in named:
        first, second = path.split(".")
        assert second in (told() if first == "env" else values()[first]), words


def test_the_chart_has_the_projects_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    tags = {name: image["tag"] for name, image in values()["images"].items() if isinstance(image, dict)}
    of_compose = {
        name: service(part)["image"].partition(":")[2]
        for name, part in (("vllm", "prepare"), ("proxy", "proxy"), ("etcd", "etcd"), ("loadtest", "loadtest"))
    }
    assert tags == of_compose
    assert {tag.partition("-")[0] for tag in tags.values()} == {chart["appVersion"]}
