"""What graphs are compiled for: a CPU, as the features that their code may use, or a GPU, as its architecture."""

import platform
from dataclasses import asdict, dataclass

from whisper2max.core.cpu import X86_64_LEVELS, cpu_features, native_cpu_features
from whisper2max.core.errors import UsageError

NATIVE = "native"
MAX_CPU = "max-cpu"
"""This machine's CPU with the network of the GPUs: to try and to judge what runs on a GPU where there is none."""

HOST_LEVEL = "x86-64-v3"
"""What the part of a GPU's graphs that runs on the CPU is compiled for."""


@dataclass(frozen=True)
class Gpu:
    """A GPU as MAX's compiler names it.

    Attributes:
        api: "cuda".
        architecture: such as "sm_90a", whose code runs on no other.
    """

    api: str
    architecture: str


GPUS = {
    "sm_80": Gpu("cuda", "sm_80"),
    "sm_89": Gpu("cuda", "sm_89"),
    "sm_90": Gpu("cuda", "sm_90a"),
    "sm_100": Gpu("cuda", "sm_100a"),
}
"""Targets without a CPU of their own: A100, RTX 40 and L4, H100 and H200, B200."""

NOT_COMPILED = {"gfx942": "MAX 26.7 does not compile its products of bfloat16 for it (llvm.amdgcn.fdot2.f32.bf16)"}
"""GPUs that our kernels compile for, and MAX's do not."""

REFUSED_ON_GPUS = {
    "float32": "products of float32 are rounded to TF32 there, which no comparison with float32 would pass",
    "int8": "there are no kernels for it",
}
"""Why an artifact of a dtype is not made for GPUs."""

TARGETS_OF = {"cpu": (NATIVE, *X86_64_LEVELS), "max": (MAX_CPU, *GPUS)}
"""By backend: weights that are laid out for one of them serve the others."""

TARGETS = (*TARGETS_OF["cpu"], *TARGETS_OF["max"])


@dataclass(frozen=True)
class Target:
    """A compilation target.

    Attributes:
        name: what the user asked for, one of `TARGETS`.
        cpu_features: features of the CPU that generated code may use, sorted, under the kernel's names.
        backend: what computes the network, one of `graph.ir.BACKENDS`.
        gpu: where the graphs run; None for the CPU.
    """

    name: str
    cpu_features: tuple[str, ...]
    backend: str = "cpu"
    gpu: Gpu | None = None

    @property
    def compiler_cpu(self) -> str:
        """What the MAX compiler calls this CPU; empty for the one that it runs on."""
        if self.name in GPUS:
            return HOST_LEVEL
        return self.name if self.name in X86_64_LEVELS else ""

    @property
    def device(self) -> str:
        """The device that builders of the backend are given by name; empty where they take none."""
        return "gpu" if self.gpu else "cpu" if self.backend == "max" else ""

    @property
    def judged(self) -> "Target":
        """The target whose graphs are compared with PyTorch here: this one, or the same network on this CPU."""
        return resolve(MAX_CPU) if self.gpu else self

    def missing_features(self) -> list[str]:
        """Features that this machine lacks to run the graphs, sorted."""
        return sorted(set(self.cpu_features) - cpu_features())

    def to_dict(self) -> dict[str, object]:
        """As the manifest records it."""
        gpu = {"gpu": asdict(self.gpu)} if self.gpu else {}
        return {"name": self.name, "cpu_features": list(self.cpu_features), **gpu}


def resolve(name: str) -> Target:
    """The target of a name, resolved to features, so that nothing that is hashed depends on the word "native".

    Args:
        name: one of `TARGETS`.

    Raises:
        UsageError: there is no such target, or it belongs to another kind of CPU than the compiler runs on.
    """
    if name == NATIVE:
        return Target(NATIVE, tuple(native_cpu_features()))
    if name == MAX_CPU:
        return Target(MAX_CPU, tuple(native_cpu_features()), "max")
    if name in GPUS:
        return Target(name, tuple(sorted(X86_64_LEVELS[HOST_LEVEL])), "max", GPUS[name])
    if name in NOT_COMPILED:
        raise UsageError(f"target {name} is not offered: {NOT_COMPILED[name]}. Choose one of {', '.join(TARGETS)}.")
    if name not in X86_64_LEVELS:
        raise UsageError(f"target {name!r} is not offered; choose one of {', '.join(TARGETS)}.")
    if platform.machine() != "x86_64":
        raise UsageError(
            f"target {name} is a level of x86-64, and this machine is {platform.machine()}: graphs are compiled on "
            "the kind of CPU that they run on. Use an x86-64 machine, or the target native."
        )
    return Target(name, tuple(sorted(X86_64_LEVELS[name])))


def resolve_all(names: str) -> list[Target]:
    """The targets of names with commas between; several are of GPUs, which share their weights.

    Raises:
        UsageError: as for `resolve`; or one is named twice, or several are not all GPUs.
    """
    targets = [resolve(name) for name in names.split(",")]
    if len({target.name for target in targets}) < len(targets):
        raise UsageError(f"target {names!r} names one twice.")
    if len(targets) > 1 and not all(target.gpu for target in targets):
        raise UsageError(f"target {names!r}: several can be given if they are GPUs, which are {', '.join(GPUS)}.")
    return targets


def resolve_to_prove(names: str) -> list[Target]:
    """Targets that can be judged here, because an artifact is published only when its network ran and passed.

    Of a GPU's target that is the same network on this CPU; the graphs for the GPU itself stay unexecuted.

    Raises:
        UsageError: as for `resolve_all`, or the machine lacks features of a target; they are listed.
    """
    targets = resolve_all(names)
    for target in targets:
        if missing := target.judged.missing_features():
            raise UsageError(
                f"target {target.name} needs CPU features that this machine lacks: {', '.join(missing)}. Its graphs "
                "could not be compared with PyTorch here, and nothing is published unproven: convert on a machine that "
                "has them, or choose a lower target."
            )
    return targets
