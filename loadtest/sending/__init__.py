"""Which process sends which request when, and what becomes of it."""
