"""Instruction set features of CPUs, under the names that the Linux kernel gives them."""

import re
from pathlib import Path

from whisper2max.core.errors import ArtifactError

_CPUINFO = Path("/proc/cpuinfo")

# What a compiler may emit from portable code when told to use all of an x86-64 CPU. The kernel lists many
# more flags (power management, virtualisation, cryptography), and to demand those would refuse machines
# that run the graphs perfectly well.
_X86_CODE_GENERATION = re.compile(
    r"pni|ssse3|sse4_1|sse4_2|sse4a|popcnt|cx16|lahf_lm|movbe|abm|bmi1|bmi2|adx|fma|fma4|xop|tbm|f16c|gfni"
    r"|avx|avx2|avx512\w+|avx_\w+|avx10\w*|amx_\w+"
)
# The levels of the x86-64 psABI, in the same terms: the baseline, which every x86-64 machine has, is left out, and
# so is OSXSAVE of v3, without which the kernel lists no avx.
_V2 = frozenset({"cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3"})
_V3 = _V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}
_V4 = _V3 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}
X86_64_LEVELS = {"x86-64-v2": _V2, "x86-64-v3": _V3, "x86-64-v4": _V4}
_ARM_NOT_INSTRUCTIONS = frozenset({"evtstrm", "cpuid"})


def cpu_features() -> frozenset[str]:
    """Instruction set flags that every CPU of this machine has, as Linux names them.

    Raises:
        ArtifactError: the operating system does not list them in /proc/cpuinfo.
    """
    try:
        text = _CPUINFO.read_text()
    except OSError as error:
        raise ArtifactError(
            f"The CPU features of this machine cannot be read ({error}), so an artifact compiled for certain "
            "features cannot be opened safely. Artifacts are supported on Linux."
        ) from error
    cores = re.findall(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    if not cores:
        raise ArtifactError(
            f"{_CPUINFO} has neither a flags nor a Features line, so the CPU features of this machine are "
            "unknown. Artifacts are supported on Linux on x86-64 and arm64."
        )
    return frozenset.intersection(*(frozenset(core.split()) for core in cores))


def native_cpu_features() -> list[str]:
    """The features that a graph compiled for this very machine may use, sorted.

    This is what a manifest records under target.cpu_features for the target "native": those of
    `cpu_features` that a compiler emits from portable code.
    """
    features = cpu_features()
    if "asimd" in features:
        return sorted(features - _ARM_NOT_INSTRUCTIONS)
    return sorted(feature for feature in features if _X86_CODE_GENERATION.fullmatch(feature))
