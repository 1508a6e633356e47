"""The product y = x @ w.T + bias on every core, with GELU or a residual added before a sum leaves the cache.

The weight is stored in panels of 32 columns (`tile`), packed at conversion. Two ways to share the work:

    many rows: a unit is a block of rows, which is packed once and taken through every panel;
               a chain of a panel's words stays in the first-level cache while the tiles of the block pass

                    panel 0   panel 1   ..                 few rows: all rows are packed once, and a unit
        block 0   [ tile      tile      .. ]  unit 0                is a range of panels, which is read
                  [ tile      tile      .. ]                        from memory once, front to back
        block 1   [ tile      tile      .. ]  unit 1
                                                               [ panel 0 .. i ] unit 0   [ panel i .. ] unit 1

Few rows of a small weight run in the caller (`share`).
"""

from std.math import erf, tanh

from extensibility import InputTensor

from .pack import pack_row
from .share import share_range, share_units
from .tile import (
    CHAIN,
    Floats,
    LANES,
    PANEL,
    ROWS,
    TILES,
    VECTORS,
    ZERO_POINT,
    group,
    multiply_chain,
    spread,
    sum_type,
    tile_rows,
)


comptime Numbers = Pointer[Float32, ImmUntrackedOrigin]
comptime PackedWords = Pointer[Int32, ImmUntrackedOrigin]

comptime FEW_ROWS = 96
comptime TILES_PER_BLOCK = 8

comptime NONE = 0
comptime GELU = 1
comptime GELU_TANH = 2


def activation_named[name: StaticString]() -> Int:
    """The number of "none", "gelu" (exact) or "gelu_tanh" (its approximation)."""
    comptime assert name == "none" or name == "gelu" or name == "gelu_tanh", "activation is none, gelu or gelu_tanh"
    return NONE if name == "none" else GELU if name == "gelu" else GELU_TANH


@always_inline
def activated(x: Floats, activation: Int) -> Floats:
    """Return x, or x times the share of a normal distribution below x."""
    if activation == GELU:
        return 0.5 * x * (1 + erf(x * Float32(0.7071067811865476)))
    if activation == GELU_TANH:
        return 0.5 * x * (1 + tanh(Float32(0.7978845608028654) * (x + Float32(0.044715) * x * x * x)))
    return x


@always_inline
def load[dtype: DType](x: Pointer[Scalar[dtype], _], count: Int) -> SIMD[dtype, LANES]:
    """The first `count` of 16 values, the rest 0."""
    if count >= LANES:
        return x.unsafe_load[width=LANES]()
    var values = SIMD[dtype, LANES](0)
    for i in range(count):
        values[i] = x.unsafe_offset(i).unsafe_load()
    return values


@always_inline
def store(x: Pointer[mut=True, Float32, _], values: Floats, count: Int):
    """Write the first `count` of 16 floats."""
    if count >= LANES:
        x.unsafe_store(values)
    else:
        for i in range(count):
            x.unsafe_offset(i).unsafe_store(values[i])


def untracked[T: AnyType](pointer: Pointer[T, _]) -> Pointer[T, ImmUntrackedOrigin]:
    """The same address, for a struct that is gone before what it points to."""
    return pointer.unsafe_mut_cast[False]().unsafe_origin_cast[ImmUntrackedOrigin]()


@fieldwise_init
struct Matrix[format: DType](Copyable, TrivialRegisterPassable):
    """A packed weight, and what belongs to each of its columns.

    `scales` and `column_sums` are read for int8 alone.
    """

    var panels: PackedWords
    var scales: Numbers
    var column_sums: PackedWords
    var bias: Numbers
    var columns: Int
    var words: Int

    def panel_count(self) -> Int:
        """Panels of 32 columns, the last one perhaps not full."""
        return (self.columns + PANEL - 1) // PANEL

    def bytes(self) -> Int:
        """Of the packed weight."""
        return self.panel_count() * PANEL * self.words * 4


def matrix[
    format: DType
](
    weight: InputTensor[dtype=format, rank=4, ...],
    scales: InputTensor[dtype=DType.float32, rank=1, ...],
    column_sums: InputTensor[dtype=DType.int32, rank=1, ...],
    bias: InputTensor[dtype=DType.float32, rank=1, ...],
    n_in: Int,
) raises -> Matrix[format]:
    """The weight of a layer with `n_in` inputs; raise unless its tensors have the shapes of whisper2max.linear."""
    var n_out = bias.dim_size(0)
    if weight.dim_size(1) * group[format]() != n_in or weight.dim_size(0) != (n_out + PANEL - 1) // PANEL:
        raise Error("whisper2max: a weight is packed for another number of inputs or outputs")
    comptime if format == DType.int8:
        if scales.dim_size(0) != n_out or column_sums.dim_size(0) != n_out:
            raise Error("whisper2max: an int8 weight needs the scale and the sum of every output")
    return Matrix[format](
        untracked(weight.unsafe_ptr().unsafe_bitcast[Int32]()),
        untracked(scales.unsafe_ptr()),
        untracked(column_sums.unsafe_ptr()),
        untracked(bias.unsafe_ptr()),
        n_out,
        weight.dim_size(1),
    )


@fieldwise_init
struct Rows(Copyable, TrivialRegisterPassable):
    """Rows of x: row t of batch b begins at `b * batch_step + t * row_step` floats; rows may overlap."""

    var data: Numbers
    var count: Int
    var per_batch: Int
    var batch_step: Int
    var row_step: Int

    def row(self, i: Int) -> Numbers:
        """Where row i of all batches begins."""
        var batch, t = divmod(i, self.per_batch)
        return self.data.unsafe_offset(batch * self.batch_step + t * self.row_step)


def contiguous(data: Pointer[Float32, _], count: Int, width: Int) -> Rows:
    """`count` rows of `width` floats, one after the other."""
    return Rows(untracked(data), count, count, 0, width)


@fieldwise_init
struct Finish(Copyable, TrivialRegisterPassable):
    """What becomes of a sum before it is stored: NONE, GELU or GELU_TANH, then a residual if `add`.

    The residual lies as the output does.
    """

    var activation: Int
    var add: Bool
    var residual: Numbers


def plain(activation: Int, unread: Pointer[Float32, _]) -> Finish:
    """An activation and no residual."""
    return Finish(activation, False, untracked(unread))


def adding(residual: Pointer[Float32, _]) -> Finish:
    """A residual and no activation."""
    return Finish(NONE, True, untracked(residual))


# not inlined, so that each number of rows is compiled once for all the products of a graph
@no_inline
def sum_tile[
    format: DType, rows: Int, total: DType
](sums: Pointer[mut=True, Scalar[total], _], packed: Pointer[Int32, _], panel: PackedWords, words: Int, add: Bool):
    """A chain of words of a tile of packed rows and a panel."""
    multiply_chain[format, rows, rows, 1](sums, PANEL, packed, panel, words, add)


@no_inline
def finish_sums[
    format: DType, total: DType
](
    output: Pointer[mut=True, Float32, _],
    sums: Pointer[Scalar[total], _],
    row_scales: Pointer[Float32, _],
    weight: Matrix[format],
    finish: Finish,
    first: Int,
    count: Int,
    panel: Int,
):
    """Sums of one panel to their place in `output`.

    Args:
        output: Contiguous rows of `weight.columns` floats.
        sums: Rows of 32, one after the other.
        row_scales: Of every row, for int8.
        weight: That was multiplied with.
        finish: Before a value is stored.
        first: Row of the output that the sums begin at.
        count: Rows.
        panel: Of the weight.
    """
    comptime for v in range(VECTORS):
        var column = panel * PANEL + v * LANES
        var columns = weight.columns - column
        if columns <= 0:
            return
        var offset = load(weight.bias.unsafe_offset(column), columns)
        var column_scales = Floats(1)
        var shift = SIMD[DType.int32, LANES](0)
        comptime if format == DType.int8:
            column_scales = load(weight.scales.unsafe_offset(column), columns)
            comptime if ZERO_POINT != 0:
                shift = load(weight.column_sums.unsafe_offset(column), columns) * Int32(ZERO_POINT)
        for r in range(count):
            var total_sums = sums.unsafe_offset(r * PANEL + v * LANES).unsafe_load[width=LANES]()
            var y = offset
            comptime if format == DType.int8:
                var exact = rebind[SIMD[DType.int32, LANES]](total_sums) - shift
                var scale = column_scales * row_scales.unsafe_offset(r).unsafe_load()
                y = exact.cast[DType.float32]().fma(scale, offset)
            else:
                y += rebind[Floats](total_sums)
            y = activated(y, finish.activation)
            var place = (first + r) * weight.columns + column
            if finish.add:
                y += load(finish.residual.unsafe_offset(place), columns)
            store(output.unsafe_offset(place), y, columns)


def room_for(rows: Int) -> Int:
    """Rows that packed tiles of `rows` rows take, with their padding."""
    return (rows + ROWS - 1) // ROWS * ROWS


def pack_tiles[
    format: DType
](
    packed: Pointer[mut=True, Int32, _],
    row_scales: Pointer[mut=True, Float32, _],
    x: Rows,
    first: Int,
    count: Int,
    words: Int,
):
    """Pack rows `first` to `first + count` of x in tiles, one after the other, into `room_for(count)` rows."""
    for start in range(0, count, ROWS):
        var used = min(ROWS, count - start)
        var step = tile_rows(used)
        var tile = packed.unsafe_offset(start * words * spread[format]())
        for r in range(used):
            var scale = pack_row[format](tile.unsafe_offset(r), x.row(first + start + r), words, step)
            row_scales.unsafe_offset(start + r).unsafe_store(scale)
        for r in range(used, step):
            for k in range(words * spread[format]()):
                tile.unsafe_offset(k * step + r).unsafe_store(0)


def finish_panel[
    format: DType
](
    output: Pointer[mut=True, Float32, _],
    sums: Pointer[mut=True, Int32, _],
    packed: Pointer[Int32, _],
    row_scales: Pointer[Float32, _],
    weight: Matrix[format],
    finish: Finish,
    first: Int,
    count: Int,
    panel: Int,
):
    """One panel times the tiles that `pack_tiles` made of rows `first` to `first + count`.

    `sums` is scratch of `room_for(count)` rows of 32 words.
    """
    comptime total = sum_type[format]()
    var sums_data = sums.unsafe_bitcast[Scalar[total]]()
    var words_of_panel = weight.panels.unsafe_offset(panel * weight.words * PANEL)
    for chain in range(0, weight.words, CHAIN):
        for start in range(0, count, ROWS):
            var tile = tile_rows(count - start)
            comptime for rows in TILES:
                comptime if rows <= ROWS:
                    if tile == rows:
                        sum_tile[format, rows](
                            sums_data.unsafe_offset(start * PANEL),
                            packed.unsafe_offset((start * weight.words + chain * rows) * spread[format]()),
                            words_of_panel.unsafe_offset(chain * PANEL),
                            min(CHAIN, weight.words - chain),
                            chain > 0,
                        )
    finish_sums[format](output, sums_data, row_scales, weight, finish, first, count, panel)


@no_inline
def product[format: DType](output: Pointer[mut=True, Float32, _], x: Rows, weight: Matrix[format], finish: Finish):
    """Compute output[x.count, weight.columns] = x @ weight.T + bias, finished; output is contiguous."""
    var panels, words = weight.panel_count(), weight.words
    if x.count <= FEW_ROWS:
        var packed = List[Int32](unsafe_uninit_length=room_for(x.count) * words * spread[format]())
        var row_scales = List[Float32](unsafe_uninit_length=room_for(x.count))
        var packed_data, scale_data = packed.unsafe_ptr(), row_scales.unsafe_ptr()
        pack_tiles[format](packed_data, scale_data, x, 0, x.count, words)

        def panel_range(first: Int, end: Int) {imm}:
            var sums = List[Int32](unsafe_uninit_length=room_for(x.count) * PANEL)
            for panel in range(first, end):
                finish_panel[format](
                    output, sums.unsafe_ptr(), packed_data, scale_data, weight, finish, 0, x.count, panel
                )

        share_range(panels, weight.bytes(), panel_range)
        _ = packed^
        _ = row_scales^
    else:
        comptime block = ROWS * TILES_PER_BLOCK

        def row_block(unit: Int) {imm}:
            var first = unit * block
            var count = min(block, x.count - first)
            var packed = List[Int32](unsafe_uninit_length=block * words * spread[format]())
            var row_scales = List[Float32](unsafe_uninit_length=block)
            var sums = List[Int32](unsafe_uninit_length=block * PANEL)
            var packed_data, scale_data = packed.unsafe_ptr(), row_scales.unsafe_ptr()
            pack_tiles[format](packed_data, scale_data, x, first, count, words)
            for panel in range(panels):
                finish_panel[format](
                    output, sums.unsafe_ptr(), packed_data, scale_data, weight, finish, first, count, panel
                )

        share_units((x.count + block - 1) // block, row_block)
