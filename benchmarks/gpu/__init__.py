"""Measurements on a GPU that is there for minutes: what travels there, and what is asked of it in one call."""
