"""Figures of a run, held against their targets, as a page."""
