"""tokenizer.json from the files that came before it, and vocabularies that grew or were padded."""

import json
from functools import partial

import pytest
import torch

from whisper2max.checkpoints import open_checkpoint
from whisper2max.core.errors import TokenizerError
from whisper2max.runtime.tokens import Tokenizer

TEXTS = ["Hello, world!", " It's 25% off\n\n  now", "Größe, naïve, 日本語 ♪♪", "<|endoftext|>"]
EMBEDDING = "model.decoder.embed_tokens.weight"


@pytest.fixture
def former(toy):
    """The files of transformers' slow tokenizer."""
    document = json.loads(toy.tokenizer_json)
    merges = "".join(f"{' '.join(merge)}\n" for merge in document["model"]["merges"])
    return {
        "vocab.json": document["model"]["vocab"],
        "merges.txt": f"#version: 0.2\n{merges}",
        "added_tokens.json": {token["content"]: token["id"] for token in document["added_tokens"]},
    }


def test_the_former_files_make_the_same_tokenizer(toy, write, former):
    checkpoint = open_checkpoint(write.huggingface(toy, tokenizer=False, files=former))
    assert checkpoint.generation["origin"]["special_tokens"] == "vocab.json and merges.txt of the checkpoint"
    ours, theirs = (Tokenizer.from_json(each.tokenizer_json, 51864) for each in (checkpoint, toy))
    assert ours.special == theirs.special
    assert [ours.encode(text) for text in TEXTS] == [theirs.encode(text) for text in TEXTS]
    assert checkpoint.generation["suppress_tokens"] == toy.generation["suppress_tokens"]


def test_a_tokenizer_of_its_own_is_read_and_not_replaced(toy, write, former):
    vocab = former["vocab.json"]
    first, second = [text for text, token in vocab.items() if token in (400, 401)]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    checkpoint = open_checkpoint(write.huggingface(toy, tokenizer=False, files=former))
    ours, theirs = (Tokenizer.from_json(each.tokenizer_json, 51864) for each in (checkpoint, toy))
    assert ours.decode([400, 401]) == theirs.decode([401, 400])


def test_the_configuration_says_which_tokens_are_special(toy, write, former):
    decoder = {
        str(token): {"content": text, "special": True} for text, token in former.pop("added_tokens.json").items()
    }
    decoder |= {"51864": {"content": "Zyvox", "special": False}, "51865": {"content": "Qq", "special": True}}
    rows = torch.zeros(8, toy.dims.n_text_state)
    state = {EMBEDDING: torch.cat([toy.module.state_dict()[EMBEDDING], rows])}
    files = {**former, "tokenizer_config.json": {"added_tokens_decoder": decoder}}
    path = write.huggingface(toy, tokenizer=False, files=files, state=state, config={"vocab_size": 51872})
    checkpoint = open_checkpoint(path)
    tokenizer = Tokenizer.from_json(checkpoint.tokenizer_json, 51872)
    assert (tokenizer.is_text(51864), tokenizer.is_text(51865)) == (True, False)
    assert 51864 in tokenizer.encode(" a Zyvox") and 51865 not in tokenizer.encode(" a Qq")
    assert tokenizer.padding == tuple(range(51866, 51872))
    assert not checkpoint.generation["multilingual"]
    # transformers' own generate samples none of the padding either
    assert set(tokenizer.padding) < set(checkpoint.module.generation_config.suppress_tokens)
    assert not set(tokenizer.padding) & set(checkpoint.generation["suppress_tokens"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("merges.txt", "#version: 0.2\na b c\n", "merges.txt holds 'a b c', expected two tokens a line"),
        ("merges.txt", "x 日本\n", "tokenizers library cannot read"),
        ("vocab.json", {"a": "0"}, "vocab.json gives 'a' no id"),
        ("added_tokens.json", {"a": None}, "added_tokens.json gives 'a' no id"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a"}}}, "describes the added token 'x'"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"7": "a"}}, "describes the added token '7'"),
    ],
)
def test_former_files_that_are_damaged_are_named(toy, write, former, name, content, message):
    path = write.huggingface(toy, tokenizer=False, files={**former, name: content})
    with pytest.raises(TokenizerError, match=message):
        open_checkpoint(path)


def test_generating_with_a_padded_vocabulary_gives_no_padding(toy, write):
    rows = 50 * torch.randn(4, toy.dims.n_text_state, generator=torch.Generator().manual_seed(0))
    # one of two opposite rows is far more likely than any token
    state = {EMBEDDING: torch.cat([toy.module.state_dict()[EMBEDDING], rows, -rows])}
    checkpoint = open_checkpoint(write.huggingface(toy, state=state, config={"vocab_size": 51872}))
    generate = partial(checkpoint.module.generate, torch.zeros(1, 80, 40), max_new_tokens=6, do_sample=False)
    assert generate()[0].max() < 51864
