"""Mojo sources of the custom operations, copied into every artifact that uses them. Holds no Python."""
