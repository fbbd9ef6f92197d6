"""Whether the machine is quiet: the same small request, some times over, before everything and after it."""

from collections.abc import Sequence
from statistics import median, quantiles

PROBES = 15
MOST_SPREAD = 0.3  # of the middle half, of the median
MOST_DRIFT = 0.2


def unquiet(before: Sequence[float], after: Sequence[float] = ()) -> str | None:
    """Why nothing that was measured between these probes, in seconds, should be believed."""
    for name, probes in (("before", before), ("after", after)):
        if len(probes) > 1:
            first, middle, third = quantiles(probes, n=4, method="inclusive")
            if third - first > MOST_SPREAD * middle:
                return (
                    f"not quiet: {name} the measurements half of {len(probes)} small requests are "
                    f"{(third - first) / middle:.0%} of their median apart, expected at most {MOST_SPREAD:.0%}"
                )
    if before and after:
        drift = median(after) / median(before) - 1
        if abs(drift) > MOST_DRIFT:
            return (
                f"not quiet: small requests take {drift:+.0%} after the measurements, expected at most "
                f"{MOST_DRIFT:.0%} more or less"
            )
    return None
