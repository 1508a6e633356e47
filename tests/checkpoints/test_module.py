"""Live modules passed from Python."""

import copy

import pytest
import torch

from whisper2max.checkpoints import from_module
from whisper2max.checkpoints.names import tensor_shapes
from whisper2max.core.errors import CheckpointError, TokenizerError


@pytest.fixture
def live(toy):
    """A module as a caller would hold it: training mode, gradients, weights of its own."""
    return copy.deepcopy(toy.module).requires_grad_(True).train()


@pytest.fixture
def live_openai(toy, write):
    model = pytest.importorskip("whisper.model")
    module = model.Whisper(model.ModelDimensions(**toy.dims.to_dict()))
    module.load_state_dict(write.openai_state(toy.module, toy.dims), strict=True)
    return module


def snapshot(module):
    tensors = {name: (tensor.dtype, tensor.requires_grad) for name, tensor in module.named_parameters()}
    return tensors, module.training


def test_a_transformers_module_is_taken_and_left_alone(toy, live, same_weights):
    live.set_attn_implementation("sdpa")
    before = snapshot(live)
    checkpoint = from_module(live)
    same_weights(toy, checkpoint)
    assert snapshot(live) == before
    assert live.config._attn_implementation == "sdpa"
    assert checkpoint.module.config._attn_implementation == "eager"
    assert checkpoint.module.proj_out.weight is checkpoint.module.model.decoder.embed_tokens.weight
    assert not any(parameter.requires_grad for parameter in checkpoint.module.parameters())
    assert checkpoint.source["format"] == "module"
    assert checkpoint.source["name"].endswith("WhisperForConditionalGeneration")


def test_float32_weights_are_shared(live):
    checkpoint = from_module(live)
    theirs, ours = live.state_dict(), checkpoint.module.state_dict()
    assert all(ours[name].data_ptr() == tensor.data_ptr() for name, tensor in theirs.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_narrow_module_is_widened_in_a_copy(toy, live, same_weights, dtype):
    live.to(dtype)
    before = snapshot(live)
    checkpoint = from_module(live)
    same_weights(toy, checkpoint, dtype)
    assert checkpoint.module.proj_out.weight is checkpoint.module.model.decoder.embed_tokens.weight
    assert checkpoint.source["stored_dtype"] == str(dtype).removeprefix("torch.")
    assert snapshot(live) == before


def test_an_openai_whisper_module_is_taken(toy, live_openai):
    before = snapshot(live_openai)
    checkpoint = from_module(live_openai)
    assert type(checkpoint.module) is type(live_openai)
    assert checkpoint.dims == toy.dims
    assert set(checkpoint.module.state_dict()) == set(tensor_shapes(toy.dims))
    assert not checkpoint.module.training
    assert snapshot(live_openai) == before
    mel = torch.zeros(1, 80, 40)
    with torch.no_grad():
        assert torch.equal(checkpoint.module.encoder(mel), live_openai.eval().encoder(mel))


def test_alignment_heads_of_an_openai_whisper_module(live_openai):
    assert from_module(live_openai).generation["alignment_heads"] is None
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[1, 3] = mask[0, 2] = True
    live_openai.register_buffer("alignment_heads", mask.to_sparse(), persistent=False)
    generation = from_module(live_openai).generation
    assert generation["alignment_heads"] == [[0, 2], [1, 3]]
    assert generation["origin"]["alignment_heads"] == "alignment_heads of the module"


def test_a_half_openai_whisper_module_is_widened(live_openai):
    checkpoint = from_module(live_openai.half())
    assert {tensor.dtype for tensor in checkpoint.module.parameters()} == {torch.float32}
    assert checkpoint.source["stored_dtype"] == "float16"
    assert next(live_openai.parameters()).dtype == torch.float16


def test_settings_of_a_module_built_from_a_bare_config_are_derived(live):
    from transformers import GenerationConfig

    live.generation_config = GenerationConfig(begin_suppress_tokens=[1])
    generation = from_module(live).generation
    assert generation["begin_suppress_tokens"] == [220, 50256]
    assert "derived" in generation["origin"]["begin_suppress_tokens"]


def test_other_modules_are_refused():
    with pytest.raises(
        CheckpointError, match="torch.nn.modules.linear.Linear is not converted.*merge_and_unload"
    ):
        from_module(torch.nn.Linear(2, 2))


def test_not_a_number_is_refused(live):
    with torch.no_grad():
        live.model.decoder.layers[1].fc1.bias[3] = float("nan")
    with pytest.raises(CheckpointError, match=r"decoder.layers.1.fc1.bias: holds NaN"):
        from_module(live)


def test_a_module_without_memory_is_refused(live):
    with pytest.raises(CheckpointError, match="meta device"):
        from_module(live.to("meta"))


def test_a_tokenizer_is_asked_for(live, no_tokenizers, toy, tmp_path):
    with pytest.raises(TokenizerError, match="--tokenizer"):
        from_module(live)
    (tmp_path / "tokenizer.json").write_bytes(toy.tokenizer_json)
    assert from_module(live, tokenizer=tmp_path / "tokenizer.json").tokenizer_json == toy.tokenizer_json
