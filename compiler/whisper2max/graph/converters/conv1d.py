"""torch.nn.Conv1d, and openai-whisper's subclass that only casts its weight to the input's dtype."""

from whisper2max.graph.converters.registry import converts
from whisper2max.graph.ir import Conv1d


@converts("torch.nn.modules.conv.Conv1d", "whisper.model.Conv1d")
def conv1d(walk, module, path, source):
    walk.require(source, "dilation", module.dilation, (1,))
    walk.require(source, "groups", module.groups, 1)
    walk.require(source, "padding_mode", module.padding_mode, "zeros")
    walk.require(source, "bias", module.bias is not None, True)
    node = Conv1d(module.in_channels, module.out_channels, module.kernel_size[0], module.stride[0], module.padding[0])
    walk.add(path, source, node)
    walk.claim(f"{path}.weight", f"{source}.weight", module.weight)
    walk.claim(f"{path}.bias", f"{source}.bias", module.bias)
