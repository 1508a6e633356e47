"""Custom ops of whisper2max, registered by importing each kernel's file."""

from .cached_attention import CachedAttention
from .cross_attention import CrossAttention
