"""Multi-head attention of both families; a softmax over scaled products of query and key.

transformers multiplies the query by head_dim ** -0.5, openai-whisper query and key each by
head_dim ** -0.25: the same scores, so the node carries one scale.
"""

from whisper2max.graph.converters.registry import converts
from whisper2max.graph.ir import Attention


@converts("transformers.models.whisper.modeling_whisper.WhisperAttention")
def transformers_attention(walk, module, path, source):
    causal = path.startswith("decoder.") and path.endswith(".attn")
    walk.require(source, "is_causal", module.is_causal, causal)
    walk.add(path, source, Attention(module.num_heads, module.head_dim, module.scaling, causal))
    for child, name in {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}.items():
        walk.descend(getattr(module, name), f"{path}.{child}", f"{source}.{name}")


@converts("whisper.model.MultiHeadAttention")
def openai_attention(walk, module, path, source):
    causal = path.startswith("decoder.") and path.endswith(".attn")
    head_dim = module.query.out_features // module.n_head
    walk.add(path, source, Attention(module.n_head, head_dim, head_dim**-0.5, causal))
    for child in ("query", "key", "value", "out"):
        walk.descend(getattr(module, child), f"{path}.{child}", f"{source}.{child}")
