"""Addresses as people and programs write them, and HTTP that no proxy of the shell's gets in the way of."""
