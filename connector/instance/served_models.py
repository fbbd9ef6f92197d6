"""What an instance says that it serves, as its record in etcd has it: its context length, its names, its adapters.

vLLM is asked, and not the settings, because its own arguments may say otherwise and adapters come and go at run time.
"""

import json
import logging
from typing import Any

from connector.instance.identity.model import adapter_identity
from stack.instances.record import Adapter

log = logging.getLogger(__name__)


def of_answer(answer: str, since: float) -> dict[str, Any]:
    """Fields of the instance's record, by name; none where the answer cannot be read, which is told in the log.

    Args: answer: of its /v1/models; since: a Unix time. vLLM makes up times and permission ids anew in every answer;
    here they stay the same, so that only what really changed is another record.
    """
    try:
        models = [_steady(model, int(since)) for model in json.loads(answer)["data"]]
        adapters = [Adapter.model_validate(model) for model in models if model.get("parent")]
        names = tuple(str(model["id"]) for model in models)
    except (ValueError, TypeError, KeyError) as error:
        log.warning("/v1/models cannot be read: %s: %s", type(error).__name__, error)
        return {}
    said: dict[str, Any] = {"served_models": names, "models": tuple(models)}
    said["adapters"] = tuple(each.model_copy(update={"identity": adapter_identity(each.root)}) for each in adapters)
    if lengths := [model["max_model_len"] for model in models if model.get("max_model_len")]:
        said["max_model_len"] = min(lengths)
    return said


def _steady(model: dict[str, Any], since: int) -> dict[str, Any]:
    steady = model | {"created": since}
    if permissions := model.get("permission"):
        name = model["id"]
        steady["permission"] = [each | {"id": f"modelperm-{name}", "created": since} for each in permissions]
    return steady
