"""The hub, played by a server on localhost that answers what huggingface_hub asks."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from whisper2max.checkpoints import SIZES, hub, open_checkpoint, open_size
from whisper2max.checkpoints import sizes as sizes_module
from whisper2max.core.errors import CheckpointError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves one directory as one repository at one commit.

    Attributes:
        repository: the id under which the files are served.
        folder: the files.
        requests: (method, path) of every request, in order.
    """

    def __init__(self, repository: str, folder: Path):
        self.repository = repository
        self.folder = folder
        self.requests: list[tuple[str, str]] = []
        self.status = 200
        hub_itself = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub_itself.answer(self, "GET")

            def do_HEAD(self):
                hub_itself.answer(self, "HEAD")

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, handler, method: str) -> None:
        path = handler.path.partition("?")[0]
        self.requests.append((method, path))
        status, content, headers = self._reply(path)
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if method == "GET":
            handler.wfile.write(content)

    def _reply(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        if self.status != 200:
            return self.status, b"", {}
        for prefix in (f"/api/models/{self.repository}/revision/", f"/api/models/{self.repository}/tree/"):
            if path.startswith(prefix):
                if path.removeprefix(prefix) not in ("main", COMMIT):
                    return 404, b"{}", {"X-Error-Code": "RevisionNotFound"}
                content = self._listing() if "/tree/" in prefix else self._info()
                return 200, json.dumps(content).encode(), {"Content-Type": "application/json"}
        path = path.replace("/resolve/main/", f"/resolve/{COMMIT}/")
        prefix = f"/{self.repository}/resolve/{COMMIT}/"
        if path.startswith(prefix) and (self.folder / path.removeprefix(prefix)).is_file():
            content = (self.folder / path.removeprefix(prefix)).read_bytes()
            return 200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        missing = "EntryNotFound" if path.startswith(f"/{self.repository}/resolve/") else "RepoNotFound"
        return 404, b"{}", {"X-Error-Code": missing}

    def _info(self) -> dict:
        names = sorted(file.name for file in self.folder.iterdir())
        return {"id": self.repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}

    def _listing(self) -> list[dict]:
        return [
            {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}
            for file in sorted(self.folder.iterdir())
        ]

    def fetched(self) -> set[str]:
        """Names of the files that were downloaded."""
        return {
            path.rpartition("/")[2]
            for method, path in self.requests
            if method == "GET" and "/resolve/" in path
        }


@pytest.fixture
def serve(monkeypatch, tmp_path):
    hubs = []

    def start(folder: Path, repository: str = "someone/whisper-toy") -> Hub:
        hubs.append(Hub(repository, folder))
        monkeypatch.setenv("HF_ENDPOINT", hubs[-1].url)
        return hubs[-1]

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    yield start
    for started in hubs:
        started.server.shutdown()
        started.server.server_close()


@pytest.mark.parametrize("shards", [1, 2])
def test_a_hub_id_downloads_what_is_needed_and_nothing_else(toy, write, serve, same_weights, shards):
    folder = write.huggingface(toy, shards=shards)
    for unneeded in (
        "README.md",
        "modeling_evil.py",
        "pytorch_model.bin",
        "flax_model.msgpack",
        "model.fp32-1.safetensors",
    ):
        (folder / unneeded).write_text("not needed")
    server = serve(folder)
    checkpoint = open_checkpoint("someone/whisper-toy")
    same_weights(toy, checkpoint)
    assert checkpoint.source["name"] == "someone/whisper-toy"
    assert checkpoint.source["revision"] == COMMIT
    weights = {1: {"model.safetensors"}, 2: {"model.safetensors.index.json"}}[shards]
    if shards == 2:
        weights |= {f"model-0000{index}-of-00002.safetensors" for index in (1, 2)}
    assert server.fetched() == {"config.json", "preprocessor_config.json", "tokenizer.json"} | weights


def test_the_second_time_nothing_is_asked(toy, write, serve, same_weights):
    server = serve(write.huggingface(toy))
    open_checkpoint("someone/whisper-toy")
    server.requests.clear()
    server.status = 503
    for reference in ("someone/whisper-toy", "someone/whisper-toy@main", f"someone/whisper-toy@{COMMIT}"):
        checkpoint = open_checkpoint(reference)
        assert checkpoint.source["revision"] == COMMIT
    same_weights(toy, checkpoint)
    assert server.requests == []


def test_an_incomplete_download_is_completed(toy, write, serve, same_weights, tmp_path):
    server = serve(write.huggingface(toy))
    open_checkpoint(f"someone/whisper-toy@{COMMIT}")
    cached = next((tmp_path / "hub-cache").rglob("snapshots/*/model.safetensors"))
    cached.resolve().unlink()
    cached.unlink()
    server.requests.clear()
    same_weights(toy, open_checkpoint(f"someone/whisper-toy@{COMMIT}"))
    assert server.fetched() == {"model.safetensors"}


def test_a_ctranslate2_repository_opens(toy, write, serve, same_weights):
    import torch

    serve(write.ctranslate2(toy, torch.float32), "someone/faster-whisper-toy")
    checkpoint = open_checkpoint("someone/faster-whisper-toy")
    same_weights(toy, checkpoint)
    assert checkpoint.source["format"] == "ctranslate2"
    assert checkpoint.source["revision"] == COMMIT


def test_a_size_is_opened_at_its_pinned_revision(toy, write, serve, same_weights, monkeypatch):
    pinned = sizes_module.Size("openai/whisper-tiny.en", COMMIT, toy.dims)
    monkeypatch.setitem(SIZES, "tiny.en", pinned)
    server = serve(write.huggingface(toy), "openai/whisper-tiny.en")
    said = []
    checkpoint = open_size("tiny.en", say=said.append)
    same_weights(toy, checkpoint)
    assert checkpoint.source["revision"] == COMMIT
    assert server.requests[0] == ("HEAD", f"/api/models/openai/whisper-tiny.en/revision/{COMMIT}")
    assert said[0].startswith("Downloading openai/whisper-tiny.en at 0123456789ab")


def test_a_size_with_other_dimensions_is_refused(toy, write, serve, monkeypatch):
    monkeypatch.setitem(SIZES, "base", sizes_module.Size("openai/whisper-base", COMMIT, SIZES["base"].dims))
    serve(write.huggingface(toy), "openai/whisper-base")
    with pytest.raises(CheckpointError, match="openai/whisper-base has other dimensions than base"):
        open_size("base", say=lambda text: None)


def test_a_tokenizer_by_hub_id(toy, write, serve, no_tokenizers):
    checkpoint_file = write.openai(toy)
    server = serve(write.huggingface(toy))
    checkpoint = open_checkpoint(checkpoint_file, tokenizer="someone/whisper-toy@" + COMMIT)
    assert checkpoint.tokenizer_json == toy.tokenizer_json
    assert server.fetched() == {"tokenizer.json"}


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("someone/nothing", "There is no directory someone/nothing.*neither a path here nor a model on"),
        ("someone/whisper-toy@v9", "no such revision"),
    ],
)
def test_what_the_hub_does_not_have_is_named(toy, write, serve, reference, message):
    serve(write.huggingface(toy))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(reference)


def test_a_repository_without_weights_is_refused(serve, tmp_path):
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository/weights.gguf").write_text("x")
    serve(tmp_path / "repository")
    with pytest.raises(
        CheckpointError, match="cannot be used: expected model.safetensors.*found weights.gguf"
    ):
        open_checkpoint("someone/whisper-toy")


def test_a_failing_hub_counts_as_unreachable(toy, write, serve):
    serve(write.huggingface(toy)).status = 503
    with pytest.raises(hub.HubError, match="cannot be reached .HTTP 503"):
        open_checkpoint("someone/whisper-toy")


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model.bin", "model.bin"], ["model.bin"]),
        (["pytorch_model.bin", "train.py"], ["pytorch_model.bin"]),
        (
            ["pytorch_model.bin.index.json", "pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin"],
            ["pytorch_model.bin.index.json", "pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin"],
        ),
        (["adapter_config.json", "adapter_model.safetensors"], ["adapter_config.json"]),
    ],
)
def test_which_files_are_needed(available, expected):
    assert hub.needed_files(available) == expected
