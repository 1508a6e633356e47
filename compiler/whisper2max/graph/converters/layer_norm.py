"""torch.nn.LayerNorm, and openai-whisper's subclass that computes in float32."""

from whisper2max.graph.converters.registry import converts
from whisper2max.graph.ir import LayerNorm


@converts("torch.nn.modules.normalization.LayerNorm", "whisper.model.LayerNorm")
def layer_norm(walk, module, path, source):
    walk.require(source, "elementwise_affine", module.elementwise_affine, True)
    walk.add(path, source, LayerNorm(module.normalized_shape[-1], module.eps))
    walk.claim(f"{path}.weight", f"{source}.weight", module.weight)
    walk.claim(f"{path}.bias", f"{source}.bias", module.bias)
