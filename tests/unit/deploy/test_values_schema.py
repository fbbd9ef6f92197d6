"""values.schema.json refuses what the settings would refuse, and takes what they take."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from jsonschema.protocols import Validator

from deploy.values_schema import CHART, FILE, text, usage
from deploy.values_schema.variables import FORMS, of_field
from stack.configuration.environment import ConfigError, Settings, load
from stack.diagnosis.facts import settings_classes
from stack.running.ports import STAND_INS

EXAMPLES = sorted(CHART.glob("values*.yaml"))
ARGUMENTS = {
    "good": ["", "--seed 3", '--a \'b c\' --d "e \\" f"', "a\\ b", '--json \'{"a": "b"}\''],
    "bad": ["--a 'b", '--a "b', "trailing\\", 'a "b\\"'],
}
LENGTHS = {
    "good": ["256", "uniform:1-5", "normal:100,20", "normal:1.5,0", "lognormal:1000,0.5", "lognormal:1,10"],
    "bad": [
        "0",
        "-5",
        "12.5",
        "uniform:0-5",
        "normal:0.5,1",
        "normal:5",
        "lognormal:5,11",
        "exponential:5",
        "uniform:a-b",
    ],
}
URLS = {
    "good": ["http://proxy:8000", "https://api.example.org/v1", "HTTP://a/"],
    "bad": ["proxy:8000", "ftp://a", "http://", "http://a?b", "http://a#b"],
    "with a password": ["http://user:password@a", "https://user@a/v1"],
}
# Values of those variables whose validators are words, for the two to be compared on.
CASES: dict[str, dict[str, list[str]]] = {
    "VLLM_EXTRA_ARGS": ARGUMENTS,
    "PREFILL_VLLM_EXTRA_ARGS": ARGUMENTS,
    "DECODE_VLLM_EXTRA_ARGS": ARGUMENTS,
    "LOADTEST_INPUT_TOKENS": LENGTHS,
    "LOADTEST_OUTPUT_TOKENS": LENGTHS,
    "LOADTEST_TARGET": URLS,
    "LOADTEST_TOKENIZER": URLS,
    "ETCD_ENDPOINT": {
        "good": ["etcd", "etcd.prod:2379", "127.0.0.1:1", "[::1]:65535", "http://e:2379/", "ETCD://e", "e_1.x."],
        "bad": [
            "https://e:2379",
            "a:1,b:2",
            "a:0",
            "a:65536",
            "::1",
            "a:",
            "[::1",
            "redis://e",
            "a b",
            "-a",
            "http://",
        ],
        "with a password": ["http://user:password@etcd:2379"],
    },
    "OTEL_EXPORTER_OTLP_ENDPOINT": {
        "good": ["http://collector:4318", "https://otlp.example.org/path?tenant=1"],
        "bad": ["collector:4318", "grpc://collector:4317", "http://"],
        "with a password": ["https://user:password@otlp.example.org"],
    },
    "PROXY_PEERS": {
        "good": ["proxies", "proxy-1:8000,proxy-2:8000", "[::1]:8000, 10.0.0.1 ,", ""],
        "bad": ["http://proxy", "a:0", "a b", "::1", "a:1;b:2"],
        "with a password": ["user@proxy"],
    },
    "LISTEN_HOST": {
        "good": ["0.0.0.0", "::", "[::]", "10.0.0.5", "localhost"],
        "bad": ["http://10.0.0.1", "10.0.0.1:80", "fe80::1%eth0", "a b", "-a"],
    },
    "LOADTEST_STAGES": {
        "good": ["60:1", "60:1,60:1-4,30:4", "1.5:.5", "5.:1, 5:2"],
        "bad": ["60", "60:", "60:1;60:2", "a:b", "60:1,", "1..5:2", "60:1-"],
    },
    "PROXY_CORS_ORIGINS": {
        "good": ["*", "none", "https://chat.example.org", "https://a.b, HTTP://localhost:3000"],
        "bad": ["https://a.b/", "a.b", "https://a.b,*", "**", "https://a b"],
    },
    "STACK_KEY": {"good": ["0123456789abcdef"], "bad": ["0123456789abcde"]},
}
# A file has to be there for the settings, and for the chart it has to be where the ConfigMap is mounted.
FILES = {"LOADTEST_PROMPTS_FILE", "LOADTEST_TRACE_FILE"}
# It bounds PROXY_MAX_BUFFERED_BYTES; that is for the chart's templates to compare.
SMALLEST_BODY = (
    "PROXY_MAX_BODY_BYTES",
    "1024",
)
READ_BY_OTHERS = {name for name in FORMS if not any(name.lower() in each.model_fields for each in settings_classes())}


@cache
def validator() -> Validator:
    content = json.loads(FILE.read_text())
    Draft7Validator.check_schema(content)
    return Draft7Validator(content)


def chart_takes(name: str, value: Any) -> bool:
    """Without what tests/k8s/chart sees refused by a template."""
    return validator().is_valid({"env": {name: value}})


def settings_take(name: str, value: object, monkeypatch: pytest.MonkeyPatch) -> bool:
    """What the template makes of a value is read by every settings class that has the variable."""
    monkeypatch.setenv(*SMALLEST_BODY)
    monkeypatch.setenv(name, str(value))
    readers = [each for each in settings_classes() if name.lower() in each.model_fields]
    assert readers
    return all(_loads(each, name) for each in readers)


def _loads(settings: type[Settings], name: str) -> bool:
    stand_ins = {key: value for key, value in STAND_INS.items() if key in settings.model_fields and key != name.lower()}
    try:
        load(settings, **stand_ins)
    except ConfigError as error:
        return not any(line.startswith(f"{name}=") or line.startswith(f"{name}:") for line in error.lines)
    return True


def edges(name: str) -> Iterator[object]:
    """Values at and beyond each bound of a field, its choices, and nonsense."""
    form = of_field(name)
    step = 1 if form["type"] == "integer" else 0.25
    for key in ("minimum", "maximum", "exclusiveMinimum"):
        if key in form:
            yield from (form[key] - step, form[key], form[key] + step)
    if form["type"] in ("integer", "number"):
        yield from (3, 100, -1, 0.5, "nonsense", True)
    if form["type"] == "boolean":
        yield from (True, False, "nonsense")
    yield from form.get("enum", [])
    if "enum" in form:
        yield from ("nonsense", form["enum"][0].upper(), "")


def plain_fields() -> list[str]:
    names = {name for name in _env_properties() if name not in FORMS and "description" not in _env_properties()[name]}
    return sorted(name for name in names if of_field(name) != {"type": "string"})


def _env_properties() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text())["properties"]["env"]["properties"]
    return found


def test_the_file_is_what_the_settings_say() -> None:
    assert FILE.read_text() == text(), "run python -m deploy.values_schema"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_charts_own_values_are_taken(example: Path) -> None:
    validator().validate(yaml.safe_load(example.read_text()))


@pytest.mark.parametrize("name", plain_fields())
def test_bounds_and_choices_are_the_fields_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in edges(name):
        taken = chart_takes(name, value)
        assert taken == settings_take(name, value, monkeypatch), f"{name}={value!r}: the chart takes it: {taken}"


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [(name, value, kind) for name, cases in CASES.items() for kind in cases for value in cases[kind]],
)
def test_patterns_say_what_validators_say(name: str, value: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stack.network.addresses.look_up", lambda name: "10.0.0.1")
    assert settings_take(name, value, monkeypatch) is (kind == "good")
    assert chart_takes(name, value) is (kind != "bad")


def test_every_pattern_is_compared() -> None:
    assert {name for name in FORMS if name not in READ_BY_OTHERS} == set(CASES) | FILES


@pytest.mark.parametrize("name", sorted(READ_BY_OTHERS - set(usage()["secrets"])))
def test_what_other_programs_read_has_no_field(name: str) -> None:
    assert all(name.lower() not in each.model_fields for each in settings_classes())


def test_a_refusal_never_shows_a_secret() -> None:
    """Helm prints the value that does not match a pattern, but not the one that is too short or of another type."""
    for name in usage()["secrets"]:
        assert set(_env_properties()[name]) <= {"type", "minLength"}


@pytest.mark.parametrize(
    "values",
    [
        {"env": {"PROXI_PORT": 8000}},
        {"env": {"BLOCK_SIZE": "32"}},
        {"enviroment": {}},
        {"prefill": {"replicas": -1}},
        {"decode": {"resources": {"limit": {}}}},
        {"images": {"vllm": {"digest": "sha256:abc"}}},
        {"images": {"vllm": {"repository": "Pd-Stack/VLLM"}}},
        {"model": {"volume": {"emptyDir": {}, "hostPath": {"path": "/models"}}}},
        {"instances": {"tmpSize": "1 GB"}},
        {"topologySpread": [{"topologyKey": "zone"}]},
        {"disruptionBudgets": {"maxUnavailable": 0}},
        {"httpRoute": {"enabled": True, "parentRefs": []}},
        {"autoscaling": {"kind": "vpa"}},
        {"autoscaling": {"decode": {"kvCacheUsage": 70}}},
        {"loadtest": {"arguments": ["--users", 10]}},
    ],
    ids=json.dumps,
)
def test_other_values_that_cannot_work_are_refused(values: dict[str, Any]) -> None:
    assert not validator().is_valid(values)
