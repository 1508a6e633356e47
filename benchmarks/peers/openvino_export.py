"""OpenVINO IR of the transformers module: encoder, keys and values of the cross-attention, decoder with a cache.

transformers' own decoder decides in Python, from the lengths at hand, how to mask; tracing would freeze that. The
decoder here is the same modules called in the same order, with the mask written out, so one graph serves a prompt of
any length and every step after it.
"""

from pathlib import Path

import openvino
import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from transformers import WhisperForConditionalGeneration


def export(directory: Path, folder: Path) -> None:
    """Write the three graphs, float32, of a transformers directory into `folder`."""
    whisper = WhisperForConditionalGeneration.from_pretrained(directory, local_files_only=True).eval()
    config = whisper.config
    folder.mkdir()
    rows, past, length = 2, 3, 4
    heads, width = config.decoder_attention_heads, config.d_model // config.decoder_attention_heads
    mel = torch.zeros(rows, config.num_mel_bins, 2 * config.max_source_positions)
    states = torch.zeros(rows, config.max_source_positions, config.d_model)
    cross = [torch.zeros(rows, heads, config.max_source_positions, width)] * (2 * config.decoder_layers)
    cache = [torch.zeros(rows, heads, past, width)] * (2 * config.decoder_layers)
    tokens = torch.zeros(rows, length, dtype=torch.int64)
    examples = {
        "encoder": (Encoder(whisper), (mel,)),
        "cross": (CrossKeysAndValues(whisper), (states,)),
        "decoder": (Decoder(whisper), (tokens, *cross, *cache)),
    }
    for name, (module, inputs) in examples.items():
        with torch.no_grad():
            graph = openvino.convert_model(module, example_input=inputs)
        for port in graph.inputs:
            shape = port.get_partial_shape()
            shape[0] = -1
            if name == "decoder" and port.get_element_type() == openvino.Type.i64:
                shape[1] = -1
            port.get_node().set_partial_shape(shape)
        graph.validate_nodes_and_infer_types()
        openvino.save_model(graph, folder / f"{name}.xml", compress_to_fp16=False)


class Encoder(nn.Module):
    """float32 [rows, n_mels, 3000] -> [rows, 1500, state]."""

    def __init__(self, whisper: WhisperForConditionalGeneration):
        super().__init__()
        self.encoder = whisper.get_encoder()

    def forward(self, mel):
        return self.encoder(mel).last_hidden_state


class CrossKeysAndValues(nn.Module):
    """float32 [rows, 1500, state] -> key and value of every layer, each [rows, heads, 1500, width]."""

    def __init__(self, whisper: WhisperForConditionalGeneration):
        super().__init__()
        self.layers = whisper.model.decoder.layers

    def forward(self, states):
        return tuple(
            _heads(project(states), layer.encoder_attn)
            for layer in self.layers
            for project in (layer.encoder_attn.k_proj, layer.encoder_attn.v_proj)
        )


class Decoder(nn.Module):
    """Tokens int64 [rows, length], cross keys and values, cache -> logits of the last token and the longer cache."""

    def __init__(self, whisper: WhisperForConditionalGeneration):
        super().__init__()
        self.decoder, self.proj_out = whisper.model.decoder, whisper.proj_out

    def forward(self, tokens, *keys_and_values):
        layers = self.decoder.layers
        cross, cache = keys_and_values[: 2 * len(layers)], keys_and_values[2 * len(layers) :]
        past = cache[0].shape[2]
        query_positions = past + torch.arange(tokens.shape[1])
        key_positions = torch.arange(past + tokens.shape[1])
        mask = torch.where(key_positions[None, :] <= query_positions[:, None], 0.0, float("-inf"))[None, None]
        x = self.decoder.embed_tokens(tokens) + self.decoder.embed_positions.weight[query_positions]
        longer = []
        for number, layer in enumerate(layers):
            attention = layer.self_attn
            h = layer.self_attn_layer_norm(x)
            key = torch.cat([cache[2 * number], _heads(attention.k_proj(h), attention)], 2)
            value = torch.cat([cache[2 * number + 1], _heads(attention.v_proj(h), attention)], 2)
            longer += [key, value]
            x = x + _attend(h, attention, key, value, mask)
            h = layer.encoder_attn_layer_norm(x)
            x = x + _attend(h, layer.encoder_attn, cross[2 * number], cross[2 * number + 1], None)
            x = x + layer.fc2(gelu(layer.fc1(layer.final_layer_norm(x))))
        return self.proj_out(self.decoder.layer_norm(x[:, -1:])), *longer


def _heads(x, attention):
    return x.view(x.shape[0], -1, attention.num_heads, attention.head_dim).transpose(1, 2)


def _attend(x, attention, key, value, mask):
    query = _heads(attention.q_proj(x), attention)
    attended = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=attention.scaling)
    return attention.out_proj(attended.transpose(1, 2).reshape(x.shape))
