"""Compares objects with the schemas that Kubernetes and the makers of custom resources publish.

Usage: python validate.py VERSION... < objects.yaml     (in the environment of requirements.lock beside this)
Prints a line for each fault, those that a misspelt field makes too; exit status 1 where there is one.
"""

import sys
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import yaml
from pydantic import ValidationError

# Objects of which no types are published as a Python package.
UNCHECKED = {"HTTPRoute"}


def faults(content: dict[str, Any], version: str) -> Iterator[str]:
    kind = content["kind"]
    if kind in UNCHECKED:
        return
    if kind in ("ScaledObject", "PodMonitor"):
        yield from _faults_of_custom(content, _type_of(kind))
        return
    try:
        kubernetes_validate.validate(content, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{'.'.join(map(str, error.path))}: {error.message}"
    except (kubernetes_validate.SchemaNotFoundError, kubernetes_validate.InvalidSchemaError) as error:
        yield error.message


def _type_of(kind: str) -> Any:
    """Imported where it is needed: the types are large."""
    if kind == "ScaledObject":
        from cloudcoil.models.keda.v1alpha1 import ScaledObject

        return ScaledObject
    from cloudcoil.models.prometheus_operator.v1 import PodMonitor

    return PodMonitor


def _faults_of_custom(content: dict[str, Any], type_: Any) -> Iterator[str]:
    try:
        known = type_.model_validate(content).model_dump(by_alias=True, exclude_unset=True, mode="json")
    except ValidationError as error:
        yield from (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
    else:
        yield from _unknown(content, known, "")


def _unknown(given: Any, known: Any, path: str) -> Iterator[str]:
    """The types leave out fields that they do not know."""
    if isinstance(given, dict):
        for key, value in given.items():
            if isinstance(known, dict) and key in known:
                yield from _unknown(value, known[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}: no such field"
    elif isinstance(given, list):
        for index, value in enumerate(given):
            yield from _unknown(value, known[index], f"{path}[{index}]")


def main() -> int:
    objects = [content for content in yaml.safe_load_all(sys.stdin) if content]
    found = [
        f"{version}: {content['kind']} {content['metadata']['name']}: {fault}"
        for version in sys.argv[1:]
        for content in objects
        for fault in faults(content, version)
    ]
    print("\n".join(found))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
