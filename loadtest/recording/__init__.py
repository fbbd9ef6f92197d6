"""Keeps what a test measures, from Locust's events to the run's folder."""
