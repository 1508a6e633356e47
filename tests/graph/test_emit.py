"""The emitted source: byte for byte as in golden/, and shown with line numbers when a template breaks it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from goldens import CASES, FOLDER, as_golden, emitted, golden_file
from small_models import VARIANTS, openai_module, transformers_module

from whisper2max.core.errors import BuildError, SpecError
from whisper2max.graph import passes
from whisper2max.graph.emit import TEMPLATES, emit
from whisper2max.graph.ir import Gelu
from whisper2max.graph.walker import walk


def small_spec(variant: str, family=transformers_module):
    dims = VARIANTS[variant]
    walked = walk(family(dims), dims)
    return passes.apply("float32", walked.spec, walked.tensors)[0]


@pytest.mark.parametrize("name", CASES)
def test_source_is_the_golden_one(name):
    golden = golden_file(name).read_text(encoding="utf-8")
    assert as_golden(name, emitted(name)) == golden, "if the change is meant: python tests/helpers/goldens.py"


def test_no_golden_file_is_left_over():
    assert set(FOLDER.iterdir()) == {golden_file(name) for name in CASES}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_walked_module_gives_the_same_source_as_its_dimensions(variant):
    assert emit(small_spec(variant)) == emitted(variant)


def test_a_format_that_no_builder_reads_is_refused():
    spec = small_spec("english_80_mels")
    odd = {"encoder.blocks.0.mlp.0": replace(spec.nodes["encoder.blocks.0.mlp.0"], packed="bfloat16")}
    with pytest.raises(SpecError, match="the builders read one format for every Linear"):
        emit(spec.with_nodes(odd))


def test_family_does_not_show():
    assert emit(small_spec("english_80_mels", openai_module)) == emitted("english_80_mels")


def test_source_imports_max_and_the_standard_library_alone():
    imports = [line for line in emitted("english_80_mels").splitlines() if line.startswith(("import ", "from "))]
    assert {line.split()[1].partition(".")[0] for line in imports} == {"collections", "pathlib", "typing", "max"}


def test_lines_fit_and_nothing_is_left_of_the_template():
    source = emitted("turbo_unequal_depth")
    assert not [line for line in source.splitlines() if len(line) > 120 or line != line.rstrip()]
    assert "{{" not in source and "{%" not in source


def test_unpacked_weights_are_refused():
    dims = VARIANTS["english_80_mels"]
    with pytest.raises(SpecError, match="encoder.conv1, encoder.conv2 and others are not packed: run the passes first"):
        emit(walk(transformers_module(dims), dims).spec)


def test_activations_that_differ_between_encoder_and_decoder_are_refused():
    spec = small_spec("english_80_mels")
    with pytest.raises(SpecError, match="different activations"):
        emit(spec.with_nodes({"decoder.blocks.0.mlp.1": Gelu("tanh")}))


@pytest.fixture
def broken_templates(tmp_path):
    def make(old: str, new: str) -> Path:
        templates = tmp_path / "templates"
        shutil.copytree(TEMPLATES, templates)
        (changed,) = (path for path in templates.glob("*.py.j2") if old in path.read_text(encoding="utf-8"))
        changed.write_text(changed.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
        return templates

    return make


def test_source_that_is_no_python_is_shown_with_line_numbers(broken_templates):
    templates = broken_templates("    y = kernel(", "    y = = kernel(")
    with pytest.raises(BuildError) as caught:
        emit(small_spec("english_80_mels"), templates)
    message = str(caught.value)
    (shown,) = (line for line in message.splitlines() if line.startswith("> "))
    assert "y = = kernel(" in shown
    assert f"model.py is not valid Python, line {shown.split()[1]}:" in message


def test_undefined_variable_in_a_template_fails(broken_templates):
    templates = broken_templates("{{ ln_post.eps }}", "{{ ln_post.epsilon }}")
    with pytest.raises(BuildError, match="epsilon"):
        emit(small_spec("english_80_mels"), templates)
