"""What `env` of the chart may hold: a JSON schema of each variable, from the field that reads it.

Bounds and choices are the field's own. What a validator checks in words is written once more as a pattern (`FORMS`);
the tests compare both on tables of values. Numbers and booleans are those of YAML: a quoted one is refused, because a
schema cannot see its size. A secret has no pattern, which would put it into the message of a refusal; and an address
with a password passes, for a template to refuse it without showing it.
"""

from typing import Any

from proxy.http import cors
from stack.diagnosis.facts import settings_classes
from stack.network import addresses

PORT = "(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})"
IPV6 = "[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*"  # as far as a pattern goes
NUMBER = r"([0-9]+\.?[0-9]*|\.[0-9]+)"
AT_LEAST_ONE = "0*[1-9][0-9]*"
FRACTION = r"(\.[0-9]+)?"
STAGE = rf"{NUMBER}:{NUMBER}(-{NUMBER})?"
ORIGIN = r"\s*[A-Za-z][A-Za-z0-9+.-]*://[^/?#@\s,]+\s*"
SHORTEST_KEY = 16  # of STACK_KEY; ControlKey refuses less

HOST_AND_PORT = rf"(\[{IPV6}\]|{addresses.NAME.pattern})(:{PORT})?"
ENDPOINT = {
    "type": "string",
    "pattern": rf"^(([hH][tT][tT][pP]|[eE][tT][cC][dD])://)?{HOST_AND_PORT}/?$|@",
}
LENGTHS = {
    "anyOf": [
        {"type": "integer", "minimum": 1},
        {
            "type": "string",
            "pattern": f"^({AT_LEAST_ONE}|uniform:{AT_LEAST_ONE}-{AT_LEAST_ONE}"
            rf"|normal:{AT_LEAST_ONE}{FRACTION},[0-9]+{FRACTION}"
            rf"|lognormal:{AT_LEAST_ONE}{FRACTION},0*([0-9]{FRACTION}|10(\.0+)?))$",
        },
    ]
}
BASE_URL = {"type": "string", "pattern": "^[hH][tT][tT][pP][sS]?://[^?#/ ]+[^?# ]*$|@"}
# Whatever shlex.split can split: every quote has its end, and every backslash something after it.
ARGUMENTS = {"type": "string", "pattern": r"""^([^'"\\]|\\[\s\S]|'[^']*'|"([^"\\]|\\[\s\S])*")*$"""}
MOUNTED = {"type": "string", "pattern": "^/run/loadtest/[^/]+$"}
GPU_LIST = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[A-Za-z0-9,-]+$"}]}

FORMS: dict[str, dict[str, Any]] = {
    "DECODE_VLLM_EXTRA_ARGS": ARGUMENTS,
    "ETCD_ENDPOINT": ENDPOINT,
    "LISTEN_HOST": {"type": "string", "pattern": rf"^({IPV6}|\[{IPV6}\]|{addresses.NAME.pattern})$"},
    "LOADTEST_INPUT_TOKENS": LENGTHS,
    "LOADTEST_OUTPUT_TOKENS": LENGTHS,
    "LOADTEST_PROMPTS_FILE": MOUNTED,
    "LOADTEST_STAGES": {"type": "string", "pattern": f"^{STAGE}( *, *{STAGE})*$"},
    "LOADTEST_TARGET": BASE_URL,
    "LOADTEST_TOKENIZER": BASE_URL,
    "LOADTEST_TRACE_FILE": MOUNTED,
    "OTEL_EXPORTER_OTLP_ENDPOINT": {"type": "string", "pattern": "^[hH][tT][tT][pP][sS]?://[^?#/ ]+[^ ]*$|@"},
    "PREFILL_VLLM_EXTRA_ARGS": ARGUMENTS,
    "PROXY_CORS_ORIGINS": {"type": "string", "pattern": rf"^(\{cors.ANY}|{cors.NONE}|{ORIGIN}(,{ORIGIN})*)$"},
    "PROXY_PEERS": {"type": "string", "pattern": rf"^[\s,]*({HOST_AND_PORT}\s*(,[\s,]*{HOST_AND_PORT}\s*)*[\s,]*)?$|@"},
    "STACK_KEY": {"type": "string", "minLength": SHORTEST_KEY},
    "VLLM_EXTRA_ARGS": ARGUMENTS,
    # Read by other programs than ours.
    "DECODE_CUDA_DEVICES": GPU_LIST,
    "HF_ENDPOINT": {"type": "string"},
    "HF_TOKEN": {"type": "string"},
    "OMP_NUM_THREADS": {"type": "integer", "minimum": 1},
    "OTEL_EXPORTER_OTLP_HEADERS": {"type": "string"},
    "PREFILL_CUDA_DEVICES": GPU_LIST,
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": {"type": "boolean"},
    "VLLM_CPU_OMP_THREADS_BIND": {"type": "string"},
    "VLLM_USE_FLASHINFER_SAMPLER": {"enum": [0, 1]},
    "VLLM_USE_MODELSCOPE": {"type": "boolean"},
}


def schema(usage: dict[str, Any]) -> dict[str, Any]:
    """Of the whole of `env`. `usage` is the chart's files/variables.yaml."""
    names = {name for program in usage["programs"].values() for name in program}
    names |= {*usage["secrets"], *usage["templates"]}
    allowed = {name: FORMS.get(name) or of_field(name) for name in names}
    # These pass, so that a template can say which value takes their place.
    elsewhere = {name: {"description": f"In Kubernetes: {instead}"} for name, instead in usage["elsewhere"].items()}
    return {
        "type": "object",
        "properties": {name: _or_unset(found) for name, found in sorted({**allowed, **elsewhere}.items())},
        "patternProperties": {"^MC_[A-Z0-9_]+$": {"type": ["string", "number", "boolean"]}},
        "additionalProperties": False,
    }


def of_field(name: str) -> dict[str, Any]:
    """The constraints of the settings' field of this name. Raises: KeyError: no settings have it, or not the same."""
    found = [
        _plain(settings.model_json_schema()["properties"][name.lower()])
        for settings in settings_classes()
        if name.lower() in settings.model_fields
    ]
    if not found or any(other != found[0] for other in found):
        raise KeyError(f"{name}: {len(found)} settings have it: {found}")
    return found[0]


def _plain(field: dict[str, Any]) -> dict[str, Any]:
    """Without what describes it, and without the null of an optional field: unset is to leave it out."""
    (kind,) = [each for each in field.get("anyOf", [field]) if each.get("type") != "null"]
    return {key: value for key, value in kind.items() if key not in ("default", "title", "format", "writeOnly")}


def _or_unset(form: dict[str, Any]) -> dict[str, Any]:
    """An empty text counts as unset, as in `.env`. Only of texts: of a number a refusal should say its bound alone."""
    if "pattern" in form:
        return {**form, "pattern": f"^$|{form['pattern']}"}
    if "enum" in form and form.get("type") == "string":
        return {**form, "enum": [*form["enum"], ""]}
    return form
