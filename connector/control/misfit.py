"""Whether a registration fits the cache that it asks for."""

from connector.cache.fingerprint import difference
from connector.cache.layout import KVLayout
from connector.control.messages import Register


def misfit(registration: Register, layout: KVLayout) -> str:
    """What it names and the cache of this rank of the producer does not have; empty when it fits."""
    if registration.fingerprint != layout.facts:
        return f"wrong layout: {difference(registration.fingerprint, layout.facts)}"
    if len(registration.groups) != len(layout.groups):
        return f"wrong layout: the consumer has {len(registration.groups)} groups of layers, we {len(layout.groups)}"
    if not any(wanted.block_ids for wanted in registration.groups):
        return "bad registration: it names no block"
    for number, (group, wanted) in enumerate(zip(layout.groups, registration.groups, strict=True)):
        end, filled = wanted.first + len(wanted.block_ids), group.blocks(registration.tokens)
        if wanted.block_ids and end != filled:
            return (
                f"bad registration: {registration.tokens} tokens fill {filled} blocks of group {number}, "
                f"those that it names end at {end}"
            )
    for place in registration.layers:
        number = layout.by_name.get(place.name, -1)
        if number < 0:
            if layout.stages > 1:
                continue  # another stage's
            return f"wrong layout: layer {place.name} is not on this rank"
        layer = layout.layers[number]
        if place.cache != layer.cache:
            return f"wrong layout: layer {place.name}: the consumer has {place.cache}, we {layer.cache}"
        if not layer.first_head <= place.first_head <= layer.first_head + layer.heads - place.heads:
            last = place.first_head + place.heads - 1
            return f"wrong layout: KV heads {place.first_head} to {last} of layer {place.name} are not on this rank"
    return ""
