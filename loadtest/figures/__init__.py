"""From the records of requests to the figures of a run. No clock, no network."""
