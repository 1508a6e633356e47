"""Token and position tables that are modules of their own."""

from whisper2max.graph.converters.registry import converts
from whisper2max.graph.ir import Embedding, Positions


@converts("torch.nn.modules.sparse.Embedding")
def embedding(walk, module, path, source):
    walk.require(source, "max_norm", module.max_norm, None)
    if path.endswith("positional_embedding"):
        positions(walk, module, path, source)
        return
    walk.add(path, source, Embedding(module.num_embeddings, module.embedding_dim))
    walk.claim(f"{path}.weight", f"{source}.weight", module.weight)


@converts("transformers.models.whisper.modeling_whisper.WhisperPositionalEmbedding")
def positions(walk, module, path, source):
    walk.add(path, source, Positions(module.num_embeddings, module.embedding_dim))
    walk.claim(path, f"{source}.weight", module.weight)
