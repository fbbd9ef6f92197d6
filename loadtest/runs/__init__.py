"""The folder that a run leaves behind: its requests, what it was, its figures."""
