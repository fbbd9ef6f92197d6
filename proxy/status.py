"""Paths that say how the proxy and its instances are: /health, /ready, /instances, /instances/targets, /metrics,
/v1/models."""

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CONTENT_TYPE_LATEST
from quart import Blueprint, Response, jsonify

from proxy.errors import RETRY_AFTER_S, ModelNotFound, NoInstance, http_error
from proxy.exchange.gateway import Gateway
from proxy.routing import dispatch
from proxy.routing.dispatch import NoProducer, of_role
from proxy.routing.fleet import Fleet, View
from stack.instances.record import Instance, Role

PARTNER: dict[Role, Role] = {"prefill": "decode", "decode": "prefill"}


def status_routes(gateway: Callable[[], Gateway]) -> Blueprint:
    """`gateway` gives the one of the running app."""
    routes = Blueprint("status", __name__)

    @routes.get("/health")
    async def health() -> Response:
        return jsonify(status="alive")

    @routes.get("/ready")
    async def ready() -> Response:
        state = readiness(gateway().fleet.view, gateway().settings.proxy_no_producer)
        response = jsonify(state)
        if state["missing"]:
            response.status_code = 503
            response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response

    @routes.get("/instances")
    async def instances() -> Response:
        return jsonify(described(gateway(), time.time()))

    @routes.get("/instances/targets")
    async def targets() -> Response:
        return jsonify(scrape_targets(gateway().fleet.view))

    @routes.get("/metrics")
    async def metrics() -> Response:
        return Response(gateway().metrics.exposition(), content_type=CONTENT_TYPE_LATEST)

    @routes.get("/v1/models")
    async def models() -> Response:
        return jsonify(object="list", data=list(served_models(gateway().fleet.view).values()))

    @routes.get("/v1/models/<path:name>")
    async def model(name: str) -> Response:
        known = served_models(gateway().fleet.view)
        if name in known:
            return jsonify(known[name])
        refusal = http_error(ModelNotFound(name))
        return Response(refusal.body, refusal.status, mimetype="application/json")

    return routes


def scrape_targets(view: View) -> list[dict[str, Any]]:
    """The usable instances as Prometheus' HTTP service discovery wants them, `instance` named as in our own metrics.

    https://prometheus.io/docs/prometheus/latest/http_sd/
    """
    return [
        {
            "targets": [urlsplit(instance.url).netloc],
            "labels": {"role": instance.role, "instance": instance.instance_id, "model": instance.model},
        }
        for instance in view.usable
    ]


def described(gateway: Gateway, now: float) -> dict[str, Any]:
    """As `describe`, and the verdict on each instance."""
    shown = describe(gateway.fleet, now)
    for each in shown["instances"]:
        each["verdict"] = gateway.breakers.described(each["instance_id"], gateway.loop.time())
    return shown


def readiness(view: View, no_producer: NoProducer = "refuse") -> dict[str, Any]:
    """Ready when a producer and a consumer form a pair, or an instance may serve alone."""
    missing: NoInstance | None = None
    if not view.known:
        missing = NoInstance(dispatch.PAIR, "Discovery has not reached etcd yet.")
    elif not of_role(view.usable, "aggregated") and not any(
        no_producer == "local" or pairs_with(instance, view) for instance in of_role(view.usable, "decode")
    ):
        missing = dispatch.no_pair(view.usable)
    return {
        "status": "not ready" if missing else "ready",
        "missing": missing.missing if missing else [],
        "reason": str(missing) if missing else None,
        "stale": view.stale_since is not None,
    }


def describe(fleet: Fleet, now: float) -> dict[str, Any]:
    """What discovery knows, what each instance has in hand, and why an instance has no partner."""
    view = fleet.view
    return {
        "stale": view.stale_since is not None,
        "stale_for_s": round(now - view.stale_since, 1) if view.stale_since is not None else None,
        "stale_reason": view.stale_reason,
        "revision": view.revision,
        "instances": [
            {
                "instance_id": instance.instance_id,
                "role": instance.role,
                "url": instance.url,
                "server": instance.server,
                "data_parallel_rank": instance.data_parallel_rank,
                "served_models": instance.served_models,
                "model": instance.model,
                "max_model_len": instance.max_model_len,
                "block_size": instance.block_size,
                "dtype": instance.dtype,
                "tensor_parallel_size": instance.tensor_parallel_size,
                "pipeline_parallel_size": instance.pipeline_parallel_size,
                "vllm_version": instance.vllm_version,
                "connector_version": instance.connector_version,
                "transports": instance.transports,
                "fingerprint": instance.fingerprint,
                "pairing": instance.pairing,
                "age_s": round(now - instance.started_at, 1),
                "outstanding": fleet.outstanding(instance.instance_id),
                "pairs_with": pairs_with(instance, view),
                "not_paired": reasons_not_paired(instance, view),
            }
            for instance in view.instances
        ],
        "unreadable": dict(view.unreadable),
    }


def pairs_with(instance: Instance, view: View) -> list[str]:
    return (
        []
        if instance not in view.usable
        else [other.instance_id for other in _others(instance, view) if _why_not(instance, other) is None]
    )


def reasons_not_paired(instance: Instance, view: View) -> list[str]:
    """One for each possible partner that is none, and for each model that one cannot share with it, or the reason why
    there is no possible partner.

    None for an aggregated instance, which needs no partner.
    """
    if (newer := view.superseded.get(instance.instance_id)) is not None:
        return [f"{newer} has taken over {instance.url}"]
    others = _others(instance, view)
    if not others and instance.role in PARTNER:
        return [f"no {PARTNER[instance.role]} instance is available"]
    reasons: list[str] = []
    for other in others:
        reason = _why_not(instance, other)
        reasons += [reason] if reason is not None else _not_shared(instance, other)
    return reasons


def served_models(view: View) -> dict[str, dict[str, Any]]:
    """OpenAI's model objects over all instances, in the words of the first that serves it.

    `max_model_len` is what every instance of the model can take.
    """
    models: dict[str, dict[str, Any]] = {}
    for instance in view.usable:
        said = {card["id"]: card for card in instance.models}
        for name in instance.served_models:
            card = _bare_card(name, instance) | said.get(name, {})
            known = models.setdefault(name, card)
            known["created"] = min(known["created"], card["created"])
            if (length := card["max_model_len"]) is not None:
                known["max_model_len"] = min(known["max_model_len"] or length, length)
    return models


def _bare_card(name: str, instance: Instance) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(instance.started_at),
        "owned_by": "vllm",
        "root": instance.model,
        "parent": None,
        "max_model_len": instance.max_model_len,
    }


def _others(instance: Instance, view: View) -> list[Instance]:
    return of_role(view.usable, PARTNER[instance.role]) if instance.role in PARTNER else []


def _why_not(instance: Instance, other: Instance, model: str | None = None) -> str | None:
    producer, consumer = (instance, other) if instance.role == "prefill" else (other, instance)
    if not set(producer.served_models) & set(consumer.served_models):
        return f"no served model in common with {other.instance_id}"
    return dispatch.mismatch(producer, consumer, model)


def _not_shared(instance: Instance, other: Instance) -> list[str]:
    """Of two that pair, the adapters that only one has, or that are not the same."""
    ours, theirs = set(instance.served_models), set(other.served_models)
    one_sided = [f"`{name}` is served by {instance.instance_id}, not by {other.instance_id}" for name in ours - theirs]
    one_sided += [f"`{name}` is served by {other.instance_id}, not by {instance.instance_id}" for name in theirs - ours]
    different = [reason for name in ours & theirs if (reason := _why_not(instance, other, name)) is not None]
    return sorted(one_sided + different)
