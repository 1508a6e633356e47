"""The CPU that graphs are compiled for, as the features that their code may use."""

import platform
from dataclasses import dataclass

from whisper2max.core.cpu import X86_64_LEVELS, cpu_features, native_cpu_features
from whisper2max.core.errors import UsageError

NATIVE = "native"
TARGETS = (NATIVE, *X86_64_LEVELS)


@dataclass(frozen=True)
class Target:
    """A compilation target.

    Attributes:
        name: what the user asked for, one of `TARGETS`.
        cpu_features: features of the CPU that generated code may use, sorted, under the kernel's names.
    """

    name: str
    cpu_features: tuple[str, ...]

    @property
    def compiler_cpu(self) -> str:
        """What the MAX compiler calls this CPU; empty for the one that it runs on."""
        return "" if self.name == NATIVE else self.name

    def missing_features(self) -> list[str]:
        """Features that this machine lacks to run the graphs, sorted."""
        return sorted(set(self.cpu_features) - cpu_features())

    def to_dict(self) -> dict[str, object]:
        """As the manifest records it."""
        return {"name": self.name, "cpu_features": list(self.cpu_features)}


def resolve(name: str) -> Target:
    """The target of a name, resolved to features, so that nothing that is hashed depends on the word "native".

    Args:
        name: "native", for all that this machine has, or a level of the x86-64 psABI.

    Raises:
        UsageError: there is no such target, or it belongs to another kind of CPU than the compiler runs on.
    """
    if name == NATIVE:
        return Target(NATIVE, tuple(native_cpu_features()))
    if name not in X86_64_LEVELS:
        what = "is a GPU, and graphs run on CPUs only" if name.startswith("sm_") else "is not offered"
        raise UsageError(f"target {name!r} {what}; choose one of {', '.join(TARGETS)}.")
    if platform.machine() != "x86_64":
        raise UsageError(
            f"target {name} is a level of x86-64, and this machine is {platform.machine()}: graphs are compiled on "
            "the kind of CPU that they run on. Use an x86-64 machine, or the target native."
        )
    return Target(name, tuple(sorted(X86_64_LEVELS[name])))


def resolve_to_prove(name: str) -> Target:
    """A target that this machine can run, because an artifact is published only when its graphs ran and passed.

    Raises:
        UsageError: as for `resolve`, or the machine lacks features of the target; they are listed.
    """
    target = resolve(name)
    if missing := target.missing_features():
        raise UsageError(
            f"target {name} needs CPU features that this machine lacks: {', '.join(missing)}. Its graphs could not be "
            "compared with PyTorch here, and nothing is published unproven: convert on a machine that has them, or "
            "choose a lower target."
        )
    return target
