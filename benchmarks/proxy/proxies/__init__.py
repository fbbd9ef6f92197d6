"""The proxies that are measured, how each is started, and what it takes of the machine."""
