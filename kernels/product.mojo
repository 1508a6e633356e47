"""The product y = x @ w.T + bias on every core, with GELU or a residual added while a tile is still in registers.

The weight is stored in panels of 32 columns (`tile`), packed at conversion. Two ways to share the work:

    many rows: a task owns a block of rows, packs it once and takes it through every panel;
               the panel stays in the first-level cache while the tiles of the block pass

                    panel 0   panel 1   ..                 few rows: all rows are packed once, and a task
        block 0   [ tile      tile      .. ]  task 0                owns a range of panels, which it reads
                  [ tile      tile      .. ]                        from memory once, front to back
        block 1   [ tile      tile      .. ]  task 1
                                                               [ panel 0 .. i ] task 0   [ panel i .. ] task 1

Few rows of a small weight run in the caller (`tasks`).
"""

from std.math import erf, tanh

from max.algorithm import sync_parallelize

from .pack import pack_row
from .tasks import tasks_worth
from .tile import Floats, LANES, PANEL, ROWS, VECTORS, ZERO_POINT, group, multiply, sum_type, tile_rows


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


# not inlined, so that each number of rows is compiled once for all the products of a graph
@no_inline
def finish_tile[
    format: DType, rows: Int
](
    output: Pointer[mut=True, Float32, _],
    packed: Pointer[Int32, _],
    row_scales: Pointer[Float32, _],
    panel: Pointer[Int32, _],
    scales: Pointer[Float32, _],
    column_sums: Pointer[Int32, _],
    bias: Pointer[Float32, _],
    residual: Pointer[Float32, _],
    activation: Int,
    add: Bool,
    used_rows: Int,
    columns: Int,
    stride: Int,
    words: Int,
):
    """One tile from packed rows to its place in `output`.

    Args:
        output: First value of the tile; rows are `stride` apart.
        packed: Words of `rows` rows, interleaved.
        row_scales: Of every row, for int8.
        panel: Of the weight.
        scales: Of every column, for int8.
        column_sums: Of the int8 weight.
        bias: Of every column.
        residual: Added if `add`, at the places of `output`.
        activation: NONE, GELU or GELU_TANH, before the residual.
        add: Whether there is a residual.
        used_rows: The rest of `rows` is padding.
        columns: That exist, 32 but for the last panel.
        stride: Floats between rows of output and residual.
        words: To contract.
    """
    comptime total = sum_type[format]()
    var sums = Array[SIMD[total, LANES], rows * VECTORS](fill=0)
    multiply[format, rows, rows, 1](sums, packed, panel, words)
    comptime for v in range(VECTORS):
        comptime first = v * LANES
        var count = columns - first
        if count <= 0:
            return
        var offset = load(bias.unsafe_offset(first), count)
        var column_scales = Floats(1)
        var shift = SIMD[DType.int32, LANES](0)
        comptime if format == DType.int8:
            column_scales = load(scales.unsafe_offset(first), count)
            comptime if ZERO_POINT != 0:
                shift = load(column_sums.unsafe_offset(first), count) * Int32(ZERO_POINT)
        var ys = Array[Floats, rows](fill=0)
        comptime for r in range(rows):
            comptime if format == DType.int8:
                var exact = rebind[SIMD[DType.int32, LANES]](sums[r * VECTORS + v]) - shift
                var scale = column_scales * row_scales.unsafe_offset(r).unsafe_load()
                ys[r] = exact.cast[DType.float32]().fma(scale, offset)
            else:
                ys[r] = rebind[Floats](sums[r * VECTORS + v]) + offset
        if activation != NONE:
            comptime for r in range(rows):
                ys[r] = activated(ys[r], activation)
        if used_rows == rows and count >= LANES:
            if add:
                comptime for r in range(rows):
                    ys[r] += residual.unsafe_offset(r * stride + first).unsafe_load[width=LANES]()
            comptime for r in range(rows):
                output.unsafe_offset(r * stride + first).unsafe_store(ys[r])
        else:
            for r in range(used_rows):
                if add:
                    ys[r] += load(residual.unsafe_offset(r * stride + first), count)
                store(output.unsafe_offset(r * stride + first), ys[r], count)


def require_packed[format: DType](n_in: Int, n_out: Int, panels: Int, words: Int) raises:
    """Raise unless a weight of `panels` panels of `words` words has `n_in` inputs and `n_out` outputs."""
    if words * group[format]() != n_in or panels != (n_out + PANEL - 1) // PANEL:
        raise Error("whisper2max: a weight is packed for another number of inputs or outputs")


@no_inline
def product[
    format: DType
](
    output: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    weight: Pointer[Int32, _],
    scales: Pointer[Float32, _],
    column_sums: Pointer[Int32, _],
    bias: Pointer[Float32, _],
    residual: Pointer[Float32, _],
    activation: Int,
    add: Bool,
    rows: Int,
    rows_per_batch: Int,
    batch_step: Int,
    row_step: Int,
    columns: Int,
    words: Int,
):
    """Compute output[rows, columns] = x @ weight.T + bias.

    Args:
        output: Contiguous.
        x: Row t of batch b begins at `b * batch_step + t * row_step`; rows may overlap.
        weight: Packed panels, [columns / 32 rounded up][words][32].
        scales: Of every column, for int8; otherwise not read.
        column_sums: Of the int8 weight; otherwise not read.
        bias: Of every column.
        residual: Added if `add`, contiguous; otherwise not read.
        activation: NONE, GELU or GELU_TANH, before the residual.
        add: Whether there is a residual.
        rows: In all batches together.
        rows_per_batch: Rows of one batch.
        batch_step: Floats.
        row_step: Floats.
        columns: Of the output.
        words: Of a row.
    """
    var panels = (columns + PANEL - 1) // PANEL

    def pack_tile(
        packed: Pointer[mut=True, Int32, _], row_scales: Pointer[mut=True, Float32, _], first: Int, used: Int, step: Int
    ) {imm}:
        for r in range(used):
            var batch, t = divmod(first + r, rows_per_batch)
            var scale = pack_row[format](
                packed.unsafe_offset(r), x.unsafe_offset(batch * batch_step + t * row_step), words, step
            )
            row_scales.unsafe_offset(r).unsafe_store(scale)
        for r in range(used, step):
            for k in range(words):
                packed.unsafe_offset(k * step + r).unsafe_store(0)

    def run_panel(
        packed: Pointer[Int32, _], row_scales: Pointer[Float32, _], first: Int, count: Int, panel: Int
    ) {imm}:
        var column = panel * PANEL
        for start in range(0, count, ROWS):
            var used = min(ROWS, count - start)
            var tile = tile_rows(used)
            comptime for rows_of_tile in [1, 2, 4, 8, ROWS]:
                comptime if rows_of_tile <= ROWS:
                    if tile == rows_of_tile:
                        finish_tile[format, rows_of_tile](
                            output.unsafe_offset((first + start) * columns + column),
                            packed.unsafe_offset(start * words),
                            row_scales.unsafe_offset(start),
                            weight.unsafe_offset(panel * words * PANEL),
                            scales.unsafe_offset(column),
                            column_sums.unsafe_offset(column),
                            bias.unsafe_offset(column),
                            residual.unsafe_offset((first + start) * columns + column),
                            activation,
                            add,
                            used,
                            min(PANEL, columns - column),
                            columns,
                            words,
                        )

    def pack_block(
        packed: Pointer[mut=True, Int32, _], row_scales: Pointer[mut=True, Float32, _], first: Int, count: Int
    ) {imm}:
        for start in range(0, count, ROWS):
            var used = min(ROWS, count - start)
            pack_tile(
                packed.unsafe_offset(start * words), row_scales.unsafe_offset(start), first + start, used, tile_rows(used)
            )

    if rows <= FEW_ROWS:
        var room = (rows + ROWS - 1) // ROWS * ROWS
        var packed = List[Int32](unsafe_uninit_length=room * words)
        var row_scales = List[Float32](unsafe_uninit_length=room)
        var packed_data = packed.unsafe_ptr()
        var scale_data = row_scales.unsafe_ptr()
        pack_block(packed_data, scale_data, 0, rows)
        var bytes = panels * PANEL * words * 4
        var tasks = tasks_worth(bytes, panels)

        def panel_range(task: Int) {imm}:
            for panel in range(task * panels // tasks, (task + 1) * panels // tasks):
                run_panel(packed_data, scale_data, 0, rows, panel)

        sync_parallelize(panel_range, tasks)
        _ = packed^
        _ = row_scales^
    else:
        comptime block = ROWS * TILES_PER_BLOCK
        var tasks = (rows + block - 1) // block

        def row_block(task: Int) {imm}:
            var first = task * block
            var count = min(block, rows - first)
            var packed = List[Int32](unsafe_uninit_length=block * words)
            var row_scales = List[Float32](unsafe_uninit_length=block)
            pack_block(packed.unsafe_ptr(), row_scales.unsafe_ptr(), first, count)
            for panel in range(panels):
                run_panel(packed.unsafe_ptr(), row_scales.unsafe_ptr(), first, count, panel)

        sync_parallelize(row_block, tasks)
