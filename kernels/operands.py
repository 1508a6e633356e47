"""Operands and values of whisper2max.step_block, in the order of the kernel, for generated source and for tests."""

# Layers of a decoder block by their canonical path in it: a norm comes as weight, bias and eps, a linear layer as
# weight, scales, sums and bias.
STEP_LAYERS = (
    ("norm", "attn_ln"),
    ("linear", "attn.query"),
    ("linear", "attn.key"),
    ("linear", "attn.value"),
    ("linear", "attn.out"),
    ("norm", "cross_attn_ln"),
    ("linear", "cross_attn.query"),
    ("linear", "cross_attn.out"),
    ("norm", "mlp_ln"),
    ("linear", "mlp.0"),
    ("linear", "mlp.2"),
)
PARTS = {"norm": ("weight", "bias", "eps"), "linear": ("weight", "scales", "sums", "bias")}

# Values on the way, each [rows, n_text_state] of the kernel's second output; the last is as wide as mlp.0.
STEP_VALUES = (
    "attn.query",
    "attn.key",
    "attn.value",
    "attn.qkv_attention",
    "attn.residual",
    "cross_attn.query",
    "cross_attn.qkv_attention",
    "cross_attn.residual",
    "mlp.1",
)


def step_operands() -> list[str]:
    """Names of all operands of the kernel."""
    parts = [f"{path.replace('.', '_')}_{part}" for kind, path in STEP_LAYERS for part in PARTS[kind]]
    where = ["positions", "slots", "audios"]
    return ["x", "layer", *parts, *where, "cache_keys", "cache_values", "audio_keys", "audio_values"]
