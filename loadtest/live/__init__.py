"""A tab of Locust's own page with a run's latencies, rates and phases over time, while it runs and afterwards."""
