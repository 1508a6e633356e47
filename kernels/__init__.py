"""Mojo sources of the custom operations, copied into every artifact; and the list of operands of the largest one."""
