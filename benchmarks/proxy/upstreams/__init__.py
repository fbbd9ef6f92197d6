"""Producers and consumers of no model, scripted, and what they answer."""
