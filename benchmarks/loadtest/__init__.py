"""Whether the load test measures what happened, how much load it can make, and whether another tool sees the same."""
