"""Names of the files in directories of Hugging Face and of CTranslate2, and which of them hold the weights."""

import os
from pathlib import Path

from whisper2max.checkpoints.files import listed, read_json, short
from whisper2max.core.errors import CheckpointError

SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
WEIGHT_FILES = (SAFETENSORS, SAFETENSORS_INDEX, PICKLE, PICKLE_INDEX)
MODEL_BIN = "model.bin"
CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
GENERATION_CONFIG, PREPROCESSOR_CONFIG = "generation_config.json", "preprocessor_config.json"
TOKENIZER = "tokenizer.json"
MOST_SHARDS = 64


def weight_names(path: Path) -> tuple[list[str], dict[str, str] | None]:
    """Names of the files with the weights of a Hugging Face directory: safetensors before pickles, one before shards.

    Returns:
        The names, sorted, and which of them each tensor is in; None where there is no index to say so.

    Raises:
        CheckpointError: there are none, or the index names shards that are missing.
    """
    name = next((name for name in WEIGHT_FILES if os.path.lexists(path / name)), None)
    if name is None:
        raise CheckpointError(
            f"{path} has {CONFIG} but no weights: expected {', '.join(WEIGHT_FILES)}. Download them as well."
        )
    if name in (SAFETENSORS, PICKLE):
        return [name], None
    weight_map = read_json(path / name).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path / name} has no weight_map; download the checkpoint again.")
    shards = list(dict.fromkeys(short(shard) if not isinstance(shard, str) else shard for shard in weight_map.values()))
    suffix = ".safetensors" if name == SAFETENSORS_INDEX else ".bin"
    outside = [shard for shard in shards if Path(shard).name != shard or not shard.endswith(suffix) or "\0" in shard]
    if outside or len(shards) > MOST_SHARDS:
        raise CheckpointError(
            f"{path / name} names {listed(outside or shards)}; shards lie in the directory itself, end in {suffix}, "
            f"and are at most {MOST_SHARDS}."
        )
    missing = [shard for shard in shards if not os.path.lexists(path / shard)]
    if missing:
        raise CheckpointError(
            f"{path} lacks the shards {listed(missing)} that {name} lists; download them as well."
        )
    return sorted(shards), weight_map
