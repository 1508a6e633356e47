"""Measurements on a GPU that is lent for minutes: what travels there, and what is asked of it in one call."""
