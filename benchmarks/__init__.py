"""Measurements that a person starts: never part of the tests, because timing is no pass or fail."""
