"""The Hugging Face hub: the local cache first, then a download of the needed files, never of code."""

import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from whisper2max.checkpoints import layouts
from whisper2max.checkpoints.layouts import TOKENIZER
from whisper2max.core.errors import CheckpointError

CONNECT_SECONDS = 3
DEFAULT_REVISION = "main"
CTRANSLATE2_FILES = (
    layouts.CONFIG,
    TOKENIZER,
    "vocabulary.json",
    "vocabulary.txt",
    layouts.PREPROCESSOR_CONFIG,
)
HUGGINGFACE_FILES = (
    layouts.CONFIG,
    layouts.GENERATION_CONFIG,
    layouts.PREPROCESSOR_CONFIG,
    layouts.ADAPTER_CONFIG,
    TOKENIZER,
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "tokenizer_config.json",
)
HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(@[\w./-]+)?")
FILE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".json")


class HubError(CheckpointError):
    """The hub cannot be reached, or does not have what is asked for."""


def is_hub_id(reference: str) -> bool:
    """Whether a reference is written as a hub id: owner/name, or owner/name@revision."""
    return HUB_ID.fullmatch(reference) is not None and not reference.endswith(FILE_SUFFIXES)


def fetch(
    reference: str, revision: str | None = None, say: Callable[[str], None] = lambda text: None
) -> tuple[Path, dict]:
    """The directory of a model, downloaded if the local cache lacks it.

    Args:
        reference: owner/name, or owner/name@revision.
        revision: a commit, branch or tag.
        say: called with a line of text before a download.

    Returns:
        The directory, and "name" and "revision" for `Checkpoint.source`; the revision is a commit.

    Raises:
        HubError: the hub cannot be reached or does not have it.
    """
    repository, revision = _split(reference, revision)
    cached = find_cached(repository, revision)
    if cached is None:
        cached = _download(repository, revision, say)
    return cached, {"name": repository, "revision": cached.name}


def fetch_tokenizer(reference: str) -> Path:
    """The tokenizer.json of a hub id, downloaded if the local cache lacks it.

    Raises:
        HubError: the hub cannot be reached or does not have it.
    """
    repository, revision = _split(reference, None)
    cached = _cached_folder(repository, revision, TOKENIZER)
    if cached is not None:
        return cached / TOKENIZER
    _check_reachable(repository, revision)
    return _guarded(repository, lambda: _download_file(repository, revision, TOKENIZER))


def find_cached(repository: str, revision: str) -> Path | None:
    """The directory of a model in the local hub cache, or None unless all of its weights are there."""
    folder = _cached_folder(repository, revision, layouts.CONFIG)
    if folder is None:
        return None
    if (folder / layouts.MODEL_BIN).exists():
        return folder
    try:
        layouts.weight_names(folder)
    except CheckpointError:
        return None
    return folder


def needed_files(available: list[str]) -> list[str]:
    """Choose the files of a repository that make up the model: safetensors before CTranslate2 before pickles.

    Raises:
        HubError: it has no weights that can be read.
    """
    shards = {
        layouts.SAFETENSORS_INDEX: re.compile(r"model-\d+-of-\d+\.safetensors"),
        layouts.PICKLE_INDEX: re.compile(r"pytorch_model-\d+-of-\d+\.bin"),
    }
    others = [name for name in HUGGINGFACE_FILES if name in available]
    for weights in (
        layouts.SAFETENSORS,
        layouts.SAFETENSORS_INDEX,
        layouts.MODEL_BIN,
        layouts.PICKLE,
        layouts.PICKLE_INDEX,
    ):
        if weights not in available:
            continue
        if weights == layouts.MODEL_BIN:
            others = [name for name in CTRANSLATE2_FILES if name in available]
        pattern = shards.get(weights)
        parts = [name for name in available if pattern.fullmatch(name)] if pattern else []
        return [*others, weights, *parts]
    if layouts.ADAPTER_CONFIG in available:
        return others
    raise HubError(
        f"expected {', '.join(layouts.WEIGHT_FILES)} or {layouts.MODEL_BIN}, found "
        f"{', '.join(available[:8])}."
    )


def _split(reference: str, revision: str | None) -> tuple[str, str]:
    repository, _, stated = reference.partition("@")
    return repository, revision or stated or DEFAULT_REVISION


def _download(repository: str, revision: str, say: Callable[[str], None]) -> Path:
    import huggingface_hub

    _check_reachable(repository, revision)

    def download() -> Path:
        api = huggingface_hub.HfApi(endpoint=_endpoint())
        info = api.model_info(repository, revision=revision, timeout=CONNECT_SECONDS * 3)
        names = needed_files([file.rfilename for file in info.siblings])
        say(f"Downloading {repository} at {info.sha[:12]}: {', '.join(names)}")
        # Asked for by its own name, a branch or tag is recorded in the cache and found there next time.
        _download_file(repository, revision, names[0])
        return [_download_file(repository, info.sha, name) for name in names][0].parent

    return _guarded(repository, download)


def _download_file(repository: str, revision: str, name: str) -> Path:
    import huggingface_hub

    path = huggingface_hub.hf_hub_download(
        repository, name, revision=revision, endpoint=_endpoint(), cache_dir=_cache_folder()
    )
    return Path(path)


def _guarded(repository: str, download: Callable[[], Path]) -> Path:
    import huggingface_hub.errors

    try:
        return download()
    except HubError as error:
        raise HubError(f"{repository} on {_endpoint()} cannot be used: {error}") from error
    except huggingface_hub.errors.GatedRepoError as error:
        raise HubError(
            f"{repository} asks for consent: accept its terms on {_endpoint()}/{repository}, then `hf auth "
            "login`."
        ) from error
    except huggingface_hub.errors.RevisionNotFoundError as error:
        raise HubError(f"{repository} has no such revision on {_endpoint()}.") from error
    except huggingface_hub.errors.RepositoryNotFoundError as error:
        raise HubError(
            f"{repository} is neither a path here nor a model on {_endpoint()}; if it is private, `hf auth "
            "login`."
        ) from error
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise HubError(
            f"{repository} cannot be downloaded from {_endpoint()} ({type(error).__name__}: {first})."
        ) from error


def _cached_folder(repository: str, revision: str, name: str) -> Path | None:
    import huggingface_hub

    path = huggingface_hub.try_to_load_from_cache(
        repository, name, cache_dir=_cache_folder(), revision=revision
    )
    return Path(path).parent if isinstance(path, str) else None


def _check_reachable(repository: str, revision: str) -> None:
    """Raise unless the hub answers one request within a few seconds; huggingface_hub itself retries for minutes.

    It runs in a thread because a name server that does not answer ignores the timeout of a socket.
    """
    if _is_true("HF_HUB_OFFLINE") or _is_true("TRANSFORMERS_OFFLINE"):
        raise HubError(
            f"{repository} is not in the local hub cache, and HF_HUB_OFFLINE forbids to download it."
        )
    outcome: list[str | None] = []
    url = f"{_endpoint()}/api/models/{repository}/revision/{revision}"
    thread = threading.Thread(target=lambda: outcome.append(_request(url)), daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    failure = outcome[0] if outcome else f"no answer within {CONNECT_SECONDS} s"
    if failure:
        raise HubError(
            f"{repository} is not in the local hub cache, and {_endpoint()} cannot be reached ({failure})."
        )


def _request(url: str) -> str | None:
    """Send a HEAD request; return why it was not answered, or None. A refusal by the hub itself is an answer."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=CONNECT_SECONDS).close()
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code} {error.reason}" if error.code >= 500 or error.code == 407 else None
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return None


def _endpoint() -> str:
    import huggingface_hub.constants

    return (os.environ.get("HF_ENDPOINT") or huggingface_hub.constants.ENDPOINT).rstrip("/")


def _cache_folder() -> Path:
    """The cache that the environment names now; huggingface_hub reads it once, at import."""
    import huggingface_hub.constants

    if os.environ.get("HF_HUB_CACHE"):
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    if os.environ.get("HF_HOME"):
        return Path(os.environ["HF_HOME"]).expanduser() / "hub"
    return Path(huggingface_hub.constants.HF_HUB_CACHE)


def _is_true(variable: str) -> bool:
    return os.environ.get(variable, "").upper() in {"1", "ON", "YES", "TRUE"}
