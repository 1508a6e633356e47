"""torch.nn.Linear, and openai-whisper's subclass that only casts its weight to the input's dtype."""

from whisper2max.graph.converters.registry import converts
from whisper2max.graph.ir import Linear


@converts("torch.nn.modules.linear.Linear", "whisper.model.Linear")
def linear(walk, module, path, source):
    walk.add(path, source, Linear(module.in_features, module.out_features, module.bias is not None))
    walk.claim(f"{path}.weight", f"{source}.weight", module.weight)
    if module.bias is not None:
        walk.claim(f"{path}.bias", f"{source}.bias", module.bias)
