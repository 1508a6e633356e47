"""Keys of attention in the panels of a matrix product: a column is a frame.

    keys of a head                        panel 0 of the head
    frame 0   [ word 0 | word 1 | .. ]    word 0   [ frame 0 | frame 1 | .. | frame 31 ]
    frame 1   [ word 0 | word 1 | .. ] -> word 1   [ frame 0 | frame 1 | .. | frame 31 ]
    ..                                    ..

A unit is one head. Frames beyond the last are zero. Where steps are stored (`attention`), every frame has
a scale, its largest magnitude over the most steps, behind the words of its panel.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from extensibility import _MutableInputTensor as MutableInputTensor
from max.gpu.host import DeviceContext
from std.memory import bitcast

from .attention import PackedAudio, most_steps, stored
from .audio_pool import every_place, places_in_pool
from .pack import as_words, largest_magnitude
from .share import share_units
from .tile import PANEL, group


@no_inline
def pack_keys[
    format: DType, head_dim: Int
](packed: Pointer[mut=True, Int32, _], keys: Pointer[Float32, _], heads_at: List[Int], frames: Int, heads: Int):
    """Pack [audios, frames, heads * head_dim] -> heads of [frames / 32, words, 32]; missing frames are 0.

    Args:
        packed: All heads that there is room for.
        keys: Of the recordings.
        heads_at: Where the first head of each recording goes.
        frames: Of each recording.
        heads: Of each recording.
    """
    comptime own = stored[format]()
    comptime steps = most_steps[own]()
    comptime words = head_dim // group[format]()
    comptime panel_size = PackedAudio[format, head_dim, 1].key_panel
    var panels = (frames + PANEL - 1) // PANEL
    var state = heads * head_dim

    def one_head(unit: Int) {imm}:
        var audio, head = divmod(unit, heads)
        for panel in range(panels):
            var place = heads_at[audio] + head
            var block = packed.unsafe_offset((place * panels + panel) * panel_size)
            for c in range(PANEL):
                var frame = panel * PANEL + c
                var row = keys.unsafe_offset((audio * frames + min(frame, frames - 1)) * state + head * head_dim)
                var largest = Float32(0)
                comptime if own.is_integral():
                    largest = largest_magnitude(row, head_dim)
                    block.unsafe_offset(words * PANEL + c).unsafe_store(bitcast[DType.int32](largest / steps))
                var inverse = steps / largest if largest > 0 else Float32(0)
                comptime for k in range(words):
                    var word = as_words[own, 1, 0](row.unsafe_offset(k * group[format]()), inverse)
                    block.unsafe_offset(k * PANEL + c).unsafe_store(word if frame < frames else Int32(0))

    share_units(len(heads_at) * heads, one_head)


@extensibility.register("whisper2max.pack_keys")
struct PackKeys:
    """Shapes: keys [audios, frames, heads * head_dim]; output [audios, heads, frames / 32 rounded up, words,
    32 * values of a word], with one more row of words for scales unless in float32. CPU only."""

    @staticmethod
    def execute[
        format: DType, head_dim: Int, target: StaticString
    ](
        output: OutputTensor[dtype=format, rank=5, ...],
        keys: InputTensor[dtype=DType.float32, rank=3, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.pack_keys runs on the CPU only"
        pack_keys[format, head_dim](
            output.unsafe_ptr().unsafe_bitcast[Int32](),
            keys.unsafe_ptr(),
            every_place(keys.dim_size(0), keys.dim_size(2) // head_dim),
            keys.dim_size(1),
            keys.dim_size(2) // head_dim,
        )


@extensibility.register("whisper2max.store_keys")
struct StoreKeys:
    """In place. Shapes: audios [n], the places of a pool; layer [1]; keys [n, frames, heads * head_dim]; pool [audios,
    layers, heads, ..] as of whisper2max.pack_keys. CPU only."""

    @staticmethod
    def execute[
        format: DType, head_dim: Int, target: StaticString
    ](
        pool: MutableInputTensor[dtype=format, rank=6, ...],
        keys: InputTensor[dtype=DType.float32, rank=3, ...],
        layer: InputTensor[dtype=DType.int64, rank=1, ...],
        audios: InputTensor[dtype=DType.int64, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.store_keys runs on the CPU only"
        comptime Heard = PackedAudio[format, head_dim, 1]
        var panels = (keys.dim_size(1) + PANEL - 1) // PANEL
        if pool.dim_size(3) != panels or pool.dim_size(4) * PANEL != Heard.key_panel:
            raise Error("whisper2max.store_keys: the pool is made for other heads or another number of frames")
        pack_keys[format, head_dim](
            pool.unsafe_ptr().unsafe_bitcast[Int32](),
            keys.unsafe_ptr(),
            places_in_pool(audios, keys, Int(layer[0]), pool.dim_size(0), pool.dim_size(1), pool.dim_size(2), head_dim),
            keys.dim_size(1),
            keys.dim_size(2) // head_dim,
        )
