"""A loaded artifact as applications use it, with the real tiny.en."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from whisper2max.core.errors import UsageError
from whisper2max.runtime.audio import load_audio
from whisper2max.runtime.features import log_mel
from whisper2max.runtime.options import DecodingOptions
from whisper2max.runtime.protocol import Rows
from whisper2max.samples import SPEECH, TRANSCRIPT


def words(text: str) -> list[str]:
    return "".join(letter for letter in text.lower() if letter.isalpha() or letter == " ").split()


def window(samples: np.ndarray) -> np.ndarray:
    padded = np.zeros(480_000, np.float32)
    padded[: len(samples)] = samples[:480_000]
    return padded


def test_transcribes_the_shipped_sample(tiny_en):
    segments, info = tiny_en.transcribe(SPEECH)
    segments = list(segments)
    assert words("".join(segment.text for segment in segments)) == words(TRANSCRIPT)
    assert info.language == "en"
    assert 0 <= segments[0].start < segments[-1].end <= info.duration + 0.5


def test_stages_have_the_shapes_of_the_contract(tiny_en):
    dims = tiny_en.engine.dims
    mel = tiny_en.log_mel(window(load_audio(SPEECH)))
    assert mel.shape == (80, 3000) and mel.dtype == np.float32
    states = tiny_en.encode(mel[None])
    assert states.shape == (1, dims.n_audio_ctx, dims.n_audio_state)
    tokens = np.array([[tiny_en.tokenizer.special.sot, tiny_en.tokenizer.special.no_timestamps, 383]], np.int64)
    logits = tiny_en.logits(tokens, states)
    assert logits.shape == (1, 3, dims.n_vocab) and np.isfinite(logits).all()


@pytest.mark.parametrize(("size", "padding"), [(480_000, 0), (12_345, 480_000), (1_000, 7), (159, 0), (0, 1_600)])
def test_features_are_those_of_numpy(tiny_en, size, padding):
    samples = np.random.default_rng(size).standard_normal(size, np.float32)
    got = tiny_en.engine.log_mel(samples, padding)
    np.testing.assert_allclose(got, log_mel(samples, 80, padding), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.engine.log_mel(np.zeros(1000)), "float64"),
        (lambda model: model.engine.log_mel(np.zeros(1000, np.float32), -1), "-1 zeros"),
        (lambda model: model.log_mel(np.zeros(1000, np.float32)), "480000"),
        (lambda model: model.encode(np.zeros((1, 128, 3000), np.float32)), r"\[windows, 80, 3000\]"),
        (lambda model: model.encode(np.zeros((1, 80, 3000))), "float64"),
        (lambda model: model.logits(np.zeros((1, 0), np.int64), np.zeros((1, 1500, 384), np.float32)), r"\[1, 0\]"),
        (lambda model: model.logits(np.full((1, 2), 60000), np.zeros((1, 1500, 384), np.float32)), "51863"),
        (lambda model: model.logits(np.zeros((3, 2), np.int64), np.zeros((2, 1500, 384), np.float32)), "2 rows"),
    ],
)
def test_wrong_shapes_are_explained(tiny_en, call, message):
    with pytest.raises(UsageError, match=message):
        call(tiny_en)


def test_neighbouring_rows_share_the_audio_of_their_group(tiny_en):
    states = np.random.default_rng(0).standard_normal((2, 1500, 384), np.float32)
    tokens = np.array([[50257, 50362], [50257, 100], [50257, 200], [50257, 300]])
    shared = tiny_en.logits(tokens, states)
    alone = [tiny_en.logits(tokens[row : row + 1], states[row // 2 : row // 2 + 1])[0] for row in range(4)]
    np.testing.assert_allclose(shared, alone, rtol=0, atol=1e-4 * np.abs(alone).max())


def test_logits_are_the_callers_own(tiny_en):
    engine, sot = tiny_en.engine, np.array([tiny_en.tokenizer.special.sot], np.int64)
    session, n_text_ctx = engine.session(1, 1), engine.dims.n_text_ctx
    session.hear(np.zeros((80, 3000), np.float32), 0)
    of_prompt = session.extend(sot[None], Rows.apart([0], [0], n_text_ctx), np.zeros((1, 1), np.int64))
    of_step = session.step(sot, Rows.apart([1], [0], n_text_ctx))
    before = of_step.copy()
    of_prompt[:], of_step[:] = np.nan, np.nan
    again = session.step(sot, Rows.apart([1], [0], n_text_ctx))
    np.testing.assert_array_equal(again, before)
    again[:] = 0
    assert np.isnan(of_prompt).all() and np.isnan(of_step).all(), "one buffer serves several steps"


def test_rows_decoded_together_give_the_tokens_they_give_alone(tiny_en):
    samples = load_audio(SPEECH)
    cuts = [samples, samples[: len(samples) // 3], samples[len(samples) // 2 :], np.zeros(16_000, np.float32)]
    prompts = ["", "Ships and harbours.", "The weather report said it would rain all day long.", ""]
    mel = np.stack([tiny_en.log_mel(window(cut)) for cut in cuts])
    options = [DecodingOptions(prompt=tiny_en.tokenizer.encode(" " + prompt) if prompt else None) for prompt in prompts]
    together = [result.tokens for result in tiny_en.decode(mel, options)]
    alone = [tiny_en.decode(mel[row : row + 1], options[row : row + 1])[0].tokens for row in range(len(cuts))]
    assert together == alone
    assert len({len(tokens) for tokens in alone}) > 1, "the rows should finish at different steps"


def test_threads_do_not_mix_their_caches(tiny_en):
    samples = load_audio(SPEECH)
    pieces = [samples, samples[len(samples) // 2 :], samples[: len(samples) // 2]]

    def text(piece):
        return "".join(segment.text for segment in tiny_en.transcribe(piece)[0])

    alone = [text(piece) for piece in pieces]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(text, pieces * 2)) == alone * 2


def test_a_fresh_process_needs_no_torch(tiny_en_artifact):
    program = f"""
import sys
for name in ("torch", "transformers", "jinja2", "whisper"):
    sys.modules[name] = None
import whisper2max
model = whisper2max.load({str(tiny_en_artifact.path)!r}, cpu_threads=1)
print("".join(segment.text for segment in model.transcribe({str(SPEECH)!r})[0]))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert words(result.stdout) == words(TRANSCRIPT)


def test_one_thread_pool_per_process(tiny_en, tiny_en_artifact):
    import whisper2max

    with pytest.raises(UsageError, match="already runs MAX"):
        whisper2max.load(tiny_en_artifact.path, cpu_threads=1)
    with pytest.raises(UsageError, match="cpu_threads is -1"):
        whisper2max.load(tiny_en_artifact.path, cpu_threads=-1)


def test_a_closed_model_lets_go_of_everything_and_says_so(small_artifact, tmp_path):
    import whisper2max

    # a copy, since the artifact that all tests share is held open
    path = shutil.copytree(small_artifact.path, tmp_path / "artifact")
    weights = str(path / "weights.safetensors")

    def held() -> tuple[bool, bool]:
        opened = {os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()}
        return weights in Path("/proc/self/maps").read_text(), weights in opened

    with whisper2max.load(path) as model:
        states = model.encode(np.zeros((1, 80, 3000), np.float32))
        segments, _ = model.transcribe(SPEECH, language="en")
        assert held() == (True, True)
    assert held() == (False, False)
    for call in (
        lambda: model.transcribe(SPEECH),
        lambda: list(segments),
        lambda: model.log_mel(np.zeros(480_000, np.float32)),
        lambda: model.encode(np.zeros((1, 80, 3000), np.float32)),
        lambda: model.logits(np.zeros((1, 1), np.int64), states),
        lambda: model.decode(np.zeros((1, 80, 3000), np.float32), [DecodingOptions()]),
    ):
        with pytest.raises(UsageError, match="the model was closed; load it again"):
            call()
    model.close()
    with whisper2max.load(path) as again:
        np.testing.assert_array_equal(again.encode(np.zeros((1, 80, 3000), np.float32)), states)


def test_a_model_is_closed_when_its_block_fails(small_artifact):
    import whisper2max

    with pytest.raises(KeyError), whisper2max.load(small_artifact.path) as model:
        raise KeyError
    with pytest.raises(UsageError, match="closed"):
        model.transcribe(SPEECH)


def test_an_unknown_option_names_the_nearest(tiny_en):
    with pytest.raises(UsageError, match=r"no option langage \(did you mean language.*It has language, task"):
        tiny_en.transcribe(SPEECH, langage="en")
    with pytest.raises(UsageError, match="no option vad_filter. It has"):
        tiny_en.transcribe(SPEECH, vad_filter=True)
