"""Custom ops of whisper2max, registered by importing each kernel's file."""

from .attention import Attention, AudioAttention
from .cached_attention import CachedAttention
from .choose import Choose
from .conv1d import Conv1d
from .embedding import Embedding
from .layer_norm import LayerNorm
from .linear import Linear, LinearAdd
from .log_mel import LogMel
from .pack_keys import PackKeys, StoreKeys
from .pack_values import PackValues, StoreValues
from .pick_rows import PickRows
from .positions import AddPositions
from .row_attention import HeardAttention, SlotAttention, StoreHeard
from .row_norm import RowNorm
from .row_product import RowProduct, RowProductAdd
from .step import StepBlock
