"""The machine that graphs are compiled for, as the CPU features their code may use."""

from dataclasses import dataclass

from whisper2max.artifact import native_cpu_features


@dataclass(frozen=True)
class Target:
    """A compilation target.

    Attributes:
        name: what the user asked for.
        cpu_features: features of the CPU that generated code may use, sorted, under the kernel's names.
    """

    name: str
    cpu_features: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """As the manifest records it."""
        return {"name": self.name, "cpu_features": list(self.cpu_features)}


def native_target() -> Target:
    """This machine, resolved to its features, so that nothing that is hashed depends on the word "native"."""
    return Target("native", tuple(native_cpu_features()))
