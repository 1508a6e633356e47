"""Names of targets become CPU features, or an error that says which there are."""

import pytest

from whisper2max.build import target as target_module
from whisper2max.build.target import TARGETS, Gpu, Target, resolve, resolve_to_prove
from whisper2max.core.cpu import X86_64_LEVELS, native_cpu_features
from whisper2max.core.errors import UsageError

AVX2_MACHINE = X86_64_LEVELS["x86-64-v3"] | {"fpu", "adx", "aes"}


@pytest.fixture
def avx2_machine(monkeypatch):
    monkeypatch.setattr(target_module.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(target_module, "cpu_features", lambda: AVX2_MACHINE)


def test_native_is_this_machine():
    target = resolve("native")
    assert target == Target("native", tuple(native_cpu_features()))
    assert target.compiler_cpu == "" and target.missing_features() == []
    assert resolve_to_prove("native") == [target]


def test_the_network_of_the_gpus_is_compiled_for_this_machine_too():
    target = resolve("max-cpu")
    assert (target.backend, target.device, target.compiler_cpu) == ("max", "cpu", "")
    assert target.cpu_features == resolve("native").cpu_features and resolve("native").backend == "cpu"


def test_a_gpu_is_judged_by_the_same_network_on_this_cpu():
    (target,) = resolve_to_prove("sm_90")
    assert (target.gpu, target.backend, target.device) == (Gpu("cuda", "sm_90a"), "max", "gpu")
    assert target.compiler_cpu == "x86-64-v3" and set(target.cpu_features) == X86_64_LEVELS["x86-64-v3"]
    assert target.judged == resolve("max-cpu") and resolve("native").judged == resolve("native")


def test_a_level_is_its_features_whatever_the_machine(avx2_machine):
    target = resolve("x86-64-v2")
    expected = ["cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3"]
    assert target.to_dict() == {"name": "x86-64-v2", "cpu_features": expected}
    assert target.compiler_cpu == "x86-64-v2"


def test_levels_that_this_machine_runs_can_be_proven(avx2_machine):
    assert resolve_to_prove("x86-64-v3") == [resolve("x86-64-v3")]
    assert resolve("x86-64-v4").missing_features() == ["avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"]
    with pytest.raises(UsageError, match=r"x86-64-v4 needs .* lacks: avx512bw, .*avx512vl\. .*choose a lower target"):
        resolve_to_prove("x86-64-v4")


@pytest.mark.parametrize("name", ["x86-64", "x86-64-v5", "znver4", "Native", "", "sm_12"])
def test_other_targets_are_refused_with_the_choices(name):
    with pytest.raises(UsageError) as error:
        resolve(name)
    message = str(error.value)
    assert message.startswith(f"target {name!r} ") and message.endswith(", ".join(TARGETS) + ".")
    assert "is not offered" in message


def test_levels_of_x86_are_refused_on_other_machines(monkeypatch):
    monkeypatch.setattr(target_module.platform, "machine", lambda: "aarch64")
    for name in X86_64_LEVELS:
        with pytest.raises(UsageError, match=f"{name} is a level of x86-64, and this machine is aarch64"):
            resolve(name)
