"""Find out how a state dict spells the names of tensors, and refuse those that are no plain Whisper.

Wrappers of training put a prefix before every name: torch.compile `_orig_mod.`, DataParallel `module.`, peft
`base_model.model.`, Lightning that of its attribute. One prefix on every name changes nothing, so it is dropped.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from whisper2max.checkpoints.files import listed
from whisper2max.checkpoints.names import transformers_name
from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import CheckpointError

PROJECTION = "proj_out.weight"
HEAD_WIDTH = 64
"""Values of each attention head, in every Whisper that was published."""

_SIDE = re.compile(r"(?:^|\.)(encoder|decoder)\.")
_ADAPTERS = (".lora_A.", ".lora_B.", ".lora_embedding_", ".base_layer.")
_QUANTISED = (".SCB", ".absmax", ".quant_map", ".quant_state", ".qweight", ".qzeros", ".weight_scale")
_QUANTISED_TYPES = (torch.int8, torch.uint8, torch.uint32, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu)


class Spelling(NamedTuple):
    """The names that a state dict has for the tensors of a Whisper.

    Attributes:
        name: its name of a canonical one.
        projection: its name of the output projection, whether it is there or not.
        note: what to tell about the prefix that is dropped; None where there is none.
    """

    name: Callable[[str], str]
    projection: str
    note: str | None


def find_spelling(tensors: Mapping[str, torch.Tensor], where: str) -> Spelling:
    """Recognise openai-whisper's or transformers' names, and the prefix that stands before all of them.

    Raises:
        CheckpointError: their prefixes differ.
    """
    prefixes = Counter(name[: found.start(1)] for name in tensors if (found := _SIDE.search(name)))
    if len(prefixes) > 1:
        counted = [f"{prefix or 'no prefix'} ({count})" for prefix, count in prefixes.most_common()]
        raise CheckpointError(
            f"{where}: the names of its tensors begin with different prefixes: {listed(counted)}. One prefix on every "
            "name is dropped, several are several models or a partly wrapped one. Export the state dict of the Whisper "
            "alone."
        )
    prefix = next(iter(prefixes), "")
    is_openai = any(".blocks." in name or "positional_embedding" in name for name in tensors)
    heads = [name for name in tensors if prefix.startswith(name.removesuffix(PROJECTION)) and name.endswith(PROJECTION)]
    usual = ("",) if is_openai else ("", "model.")
    return Spelling(
        (lambda name: prefix + name) if is_openai else (lambda name: prefix + transformers_name(name)[len("model.") :]),
        heads[0] if heads else prefix.removesuffix("model.") + PROJECTION,
        None if prefix in usual else f"{where}: every name begins with {prefix!r}, which is dropped",
    )


def refuse_other_models(tensors: Mapping[str, torch.Tensor], where: str, config: dict | None = None) -> None:
    """Refuse related models that cannot be converted, with an error that says what they are.

    Raises:
        CheckpointError: adapters that are not merged, quantised weights, a classifier, an encoder or a decoder alone.
    """
    config = config or {}
    quantised = [name for name, tensor in tensors.items() if tensor.dtype in _QUANTISED_TYPES]
    quantised += [name for name in tensors if name.endswith(_QUANTISED)]
    if quantised:
        settings = config.get("quantization_config")
        method = settings.get("quant_method") if isinstance(settings, dict) else None
        by = f" by {method}" if isinstance(method, str) else ""
        raise CheckpointError(
            f"{where} is quantised{by} ({listed(quantised, 2)}), and what that lost cannot be restored. Use the model "
            "that it was made from, or its float16 or float32 version, and quantise with --dtype int8."
        )
    adapters = [name for name in tensors if any(part in name for part in _ADAPTERS)]
    if adapters:
        raise CheckpointError(
            f"{where} holds a LoRA adapter beside the weights that it changes ({listed(adapters, 2)}). Merge them with "
            "peft, model.merge_and_unload().save_pretrained(DIR), and convert DIR."
        )
    sides = {found[1] for name in tensors if (found := _SIDE.search(name))}
    if "decoder" not in sides and any(name.endswith("classifier.weight") for name in tensors):
        raise CheckpointError(
            f"{where} is an audio classifier on Whisper's encoder: it has no decoder and writes no text, so there is "
            "nothing to transcribe with. Give the speech recognition model, a WhisperForConditionalGeneration."
        )
    if len(sides) == 1:
        raise CheckpointError(
            f"{where} holds the {sides.pop()} of a Whisper alone; encoder and decoder are needed. Give the whole model."
        )
    if not sides:
        raise CheckpointError(
            f"{where} holds no Whisper: none of its {len(tensors)} tensors is of an encoder or a decoder"
            f"{f', such as {listed(tensors, 3)}' if tensors else ''}. Give the state dict of the model itself."
        )


def stated_dims(where: object, values: Mapping[str, int]) -> ModelDimensions:
    """The ten dimensions that a file states.

    Raises:
        CheckpointError: they cannot be those of a Whisper; the file is named.
    """
    try:
        return ModelDimensions(**values)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from error


def dims_of_shapes(tensors: Mapping[str, torch.Tensor], spelling: Spelling, where: str) -> tuple[ModelDimensions, str]:
    """The dimensions that the shapes tell, and a note about the one that they do not: the number of heads.

    Raises:
        CheckpointError: a tensor that tells a dimension is missing or of another rank, or the number of heads is
            not certain.
    """

    def shape(name: str, rank: int) -> tuple[int, ...]:
        tensor = tensors.get(spelling.name(name))
        if tensor is None and name == "decoder.token_embedding.weight":
            tensor = tensors.get(spelling.projection)
        if tensor is None or tensor.ndim != rank:
            found = "missing" if tensor is None else f"of shape {list(tensor.shape)}"
            raise CheckpointError(
                f"{where} does not state its dimensions, and {spelling.name(name)}, which would tell them, is {found}. "
                "Save the whole state dict of the model."
            )
        return tuple(tensor.shape)

    def count_layers(side: str) -> int:
        count = 0
        while spelling.name(f"{side}.blocks.{count}.attn_ln.weight") in tensors:
            count += 1
        return count

    conv, audio = shape("encoder.conv1.weight", 3), shape("encoder.positional_embedding", 2)
    embedding, text = shape("decoder.token_embedding.weight", 2), shape("decoder.positional_embedding", 2)
    width = conv[0]
    if width % HEAD_WIDTH:
        raise CheckpointError(
            f"{where} does not state how many attention heads it has, and a width of {width} is not of {HEAD_WIDTH} "
            "values each, as in every published Whisper. Put it as pytorch_model.bin into a directory with its "
            "config.json, and give the directory."
        )
    values = {
        "n_mels": conv[1],
        "n_audio_ctx": audio[0],
        "n_audio_state": width,
        "n_audio_head": width // HEAD_WIDTH,
        "n_audio_layer": count_layers("encoder"),
        "n_vocab": embedding[0],
        "n_text_ctx": text[0],
        "n_text_state": embedding[1],
        "n_text_head": width // HEAD_WIDTH,
        "n_text_layer": count_layers("decoder"),
    }
    dims = stated_dims(where, values)
    return dims, (
        f"{where} does not state its dimensions: they were read from the shapes, with {HEAD_WIDTH} values for each "
        f"attention head: {dims.n_audio_head} in each attention. If the model has another number, put it as "
        "pytorch_model.bin into a directory with its config.json, and give the directory"
    )
