"""Which function converts which class, by the class's qualified name.

A qualified name, never isinstance: a subclass may compute something else, so it needs a converter
of its own or is refused.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from whisper2max.core.errors import SpecError

if TYPE_CHECKING:
    from whisper2max.graph.walker import Walk

Converter = Callable[["Walk", torch.nn.Module, str, str], None]

_CONVERTERS: dict[str, Converter] = {}


def qualified_name(module: torch.nn.Module) -> str:
    """For example `torch.nn.modules.linear.Linear`."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def converts(*names: str) -> Callable[[Converter], Converter]:
    """Register a converter for one or more qualified class names; a second registration raises."""

    def register(converter: Converter) -> Converter:
        for name in names:
            if name in _CONVERTERS:
                raise SpecError(f"{name} has two converters: {_CONVERTERS[name]} and {converter}")
            _CONVERTERS[name] = converter
        return converter

    return register


def find_converter(module: torch.nn.Module, source: str) -> Converter:
    """The converter of a module.

    Raises:
        SpecError: none is registered; names the key that was looked up and the known ones.
    """
    name = qualified_name(module)
    if name not in _CONVERTERS:
        known = ", ".join(registered_names())
        raise SpecError(
            f"{source or 'the root module'} is a {name}, which has no converter. Known classes: {known}. "
            "Merge adapters and undo quantization before converting; docs/adding-a-converter.md shows how to "
            "support another class."
        )
    return _CONVERTERS[name]


def registered_names() -> list[str]:
    """Qualified names of every class that can be converted, sorted."""
    return sorted(_CONVERTERS)
