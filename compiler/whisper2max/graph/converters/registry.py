"""The table of converters by qualified class name, and the walk that they add nodes and tensors to.

A qualified name, never isinstance: a subclass may compute something else, so it needs a converter
of its own or is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import SpecError
from whisper2max.graph.ir import Node


@dataclass
class Walk:
    """The walk in progress, as converters see it."""

    dims: ModelDimensions
    nodes: dict[str, Node] = field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    source_paths: dict[str, str] = field(default_factory=dict)
    claims: dict[str, list[str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def descend(self, module: torch.nn.Module, path: str, source: str) -> None:
        """Convert `module`, found at `source` in the source tree, to the nodes at `path`."""
        find_converter(module, source)(self, module, path, source)

    def add(self, path: str, source: str, node: Node) -> None:
        """Add a node; a path is described once."""
        if path in self.nodes:
            self.faults.append(f"{path}: described twice, by {self.source_paths[path]} and {source}")
        self.nodes[path] = node
        self.source_paths[path] = source

    def claim(self, name: str, source: str, tensor: torch.Tensor) -> None:
        """Claim the tensor at `source` as the weight `name`."""
        self.tensors[name] = tensor
        self.source_paths.setdefault(name, source)
        self.claims.setdefault(source, []).append(name)

    def claim_alias(self, source: str, tensor: torch.Tensor, of: str) -> None:
        """Claim the tensor at `source` as the same storage, or the same values, as the weight `of`."""
        self.claims.setdefault(source, []).append(f"alias of {of}")
        original = self.tensors[of]
        if tensor.data_ptr() != original.data_ptr() and not torch.equal(tensor, original):
            self.faults.append(f"{source}: differs from {of}, which Whisper ties it to")

    def claim_derived(self, source: str, reason: str) -> None:
        """Claim a buffer that follows from the dimensions."""
        self.claims.setdefault(source, []).append(f"derived, {reason}")

    def require(self, source: str, what: str, value: object, expected: object) -> None:
        """Record a fault unless an attribute that the graph does not carry has its standard value."""
        if value != expected:
            self.faults.append(f"{source}: {what} is {value!r}, expected {expected!r}")


Converter = Callable[[Walk, torch.nn.Module, str, str], None]

_CONVERTERS: dict[str, Converter] = {}


def qualified_name(module: torch.nn.Module) -> str:
    """The module and name of a module's class, for example `torch.nn.modules.linear.Linear`."""
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
