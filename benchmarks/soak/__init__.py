"""Endurance: a load on the stack for minutes or for hours, with a verdict."""
