"""Paths that say how the proxy and its instances are: /health, /ready, /instances, /instances/targets, /loads,
/metrics, /v1/models."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CONTENT_TYPE_LATEST
from quart import Blueprint, Response, jsonify

from proxy.errors import RETRY_AFTER_S, ModelNotFound, NoInstance, http_error
from proxy.exchange.gateway import Gateway
from proxy.instances import peers
from proxy.routing.dispatch import NoProducer
from proxy.routing.fleet import Fleet, View
from proxy.routing.pairing import PAIR, no_pair, of_role
from proxy.routing.partners import Pairs
from stack.instances.record import Instance


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

    @routes.get(peers.PATH)
    async def loads() -> Response:
        """For other proxies, until this one drains; what is told is in `/metrics` too."""
        return Response(gateway().teller.lines(), content_type="application/x-ndjson")

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
    """The usable servers as Prometheus' HTTP service discovery wants them, `instance` named as in our own metrics.

    A server's page has the metrics of all of its data-parallel engines, so that it is one target, under its own name.
    https://prometheus.io/docs/prometheus/latest/http_sd/
    """
    servers = {instance.server: instance for instance in view.usable}
    return [
        {
            "targets": [urlsplit(instance.url).netloc],
            "labels": {"role": instance.role, "instance": name, "model": instance.model},
        }
        for name, instance in servers.items()
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
        missing = NoInstance(PAIR, "Discovery has not reached etcd yet.")
    elif not of_role(view.usable, "aggregated") and not (
        of_role(view.usable, "decode") if no_producer == "local" else Pairs(view).any()
    ):
        missing = no_pair(view.usable)
    return {
        "status": "not ready" if missing else "ready",
        "missing": missing.missing if missing else [],
        "reason": str(missing) if missing else None,
        "stale": view.stale_since is not None,
    }


def describe(fleet: Fleet, now: float) -> dict[str, Any]:
    """What discovery knows, what each instance has in hand, and why an instance has no partner."""
    view, pairs = fleet.view, Pairs(fleet.view)
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
                **asdict(pairs.of(instance)),
            }
            for instance in view.instances
        ],
        "unreadable": dict(view.unreadable),
    }


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
