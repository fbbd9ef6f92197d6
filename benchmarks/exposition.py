"""What a server's /metrics says, as numbers."""

from prometheus_client.parser import text_string_to_metric_families


def totals(text: str) -> dict[str, float]:
    """Samples by their names, summed over labels, e.g. those of all engines."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def by_label(text: str, name: str, label: str) -> dict[str, float]:
    """One sample's values by those of a label, summed over the others."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and label in sample.labels:
                value = sample.labels[label]
                found[value] = found.get(value, 0.0) + sample.value
    return found
