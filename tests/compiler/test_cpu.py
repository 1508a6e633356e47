import pytest

from whisper2max import cpu
from whisper2max.errors import ArtifactError


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
