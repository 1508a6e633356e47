import re
import subprocess
from pathlib import Path

import pytest

from whisper2max.core import cpu
from whisper2max.core.errors import ArtifactError


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(cpu, "_CPUINFO", path)
    return path


def test_only_features_of_every_core_count(cpuinfo):
    cpuinfo.write_text(
        "processor\t: 0\nflags\t\t: fpu avx avx2 fma\nprocessor\t: 1\nflags\t\t: fpu avx fma\n"
    )
    assert cpu.cpu_features() == {"fpu", "avx", "fma"}


def test_native_features_are_those_a_compiler_emits(cpuinfo):
    cpuinfo.write_text(
        "flags\t: fpu pni avx avx2 avx512_vnni avx512f amx_tile abm aes hypervisor constant_tsc\n"
    )
    expected = ["abm", "amx_tile", "avx", "avx2", "avx512_vnni", "avx512f", "pni"]
    assert cpu.native_cpu_features() == expected


def test_arm_features(cpuinfo):
    cpuinfo.write_text("Features\t: fp asimd evtstrm asimddp i8mm bf16 cpuid\n")
    assert cpu.native_cpu_features() == ["asimd", "asimddp", "bf16", "fp", "i8mm"]


@pytest.mark.parametrize("text", [None, "", "model name : something\n"])
def test_unknown_systems_are_refused(cpuinfo, text):
    if text is not None:
        cpuinfo.write_text(text)
    with pytest.raises(ArtifactError, match="Artifacts are supported on Linux"):
        cpu.cpu_features()


def test_this_machine_has_its_native_features():
    assert set(cpu.native_cpu_features()) <= cpu.cpu_features()


def test_levels_contain_the_lower_ones_in_terms_of_native_features(cpuinfo):
    v2, v3, v4 = cpu.X86_64_LEVELS.values()
    assert v2 < v3 < v4
    cpuinfo.write_text(f"flags\t: {' '.join(v4)}\n")
    assert cpu.native_cpu_features() == sorted(v4)


def test_levels_are_those_that_the_dynamic_linker_finds_here():
    linker = Path("/lib64/ld-linux-x86-64.so.2")
    said = subprocess.run([linker, "--help"], capture_output=True, text=True, check=False) if linker.exists() else None
    if said is None or "x86-64-v2" not in said.stdout:
        pytest.skip("no dynamic linker that knows the levels of x86-64: glibc 2.33 or later has one")
    supported = set(re.findall(r"^  (x86-64-v\d) \(supported", said.stdout, re.MULTILINE))
    assert {name for name, features in cpu.X86_64_LEVELS.items() if features <= cpu.cpu_features()} == supported
