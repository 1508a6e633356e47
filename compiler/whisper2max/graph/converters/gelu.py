"""The activation between the halves of an MLP."""

from whisper2max.graph.converters.registry import converts
from whisper2max.graph.ir import Gelu


@converts("torch.nn.modules.activation.GELU")
def gelu(walk, module, path, source):
    walk.add(path, source, Gelu(module.approximate))


@converts("transformers.activations.GELUActivation")
def transformers_gelu(walk, module, path, source):
    walk.require(source, "act", getattr(module.act, "__name__", str(module.act)), "gelu")
    walk.add(path, source, Gelu("none"))
