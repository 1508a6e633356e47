"""Position vectors added to the rows of a sequence: row t of a batch row gets table[positions[row] + t]."""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .share import share_range
from .tile import LANES


@extensibility.register("whisper2max.add_positions")
struct AddPositions:
    """Shapes: x and output [batch, length, state], state a multiple of 16; table [context, state];
    positions [batch], or [1] for all rows alike. CPU only."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        output: OutputTensor[dtype=DType.float32, rank=3, ...],
        x: InputTensor[dtype=DType.float32, rank=3, ...],
        table: InputTensor[dtype=DType.float32, rank=2, ...],
        positions: InputTensor[dtype=DType.int64, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.add_positions runs on the CPU only"
        var batch, length, width = x.dim_size(0), x.dim_size(1), x.dim_size(2)
        var shared = positions.dim_size(0) == 1
        if width % LANES != 0 or not (shared or positions.dim_size(0) == batch):
            raise Error("whisper2max.add_positions: the shapes of rows, table and positions disagree")
        for row in range(positions.dim_size(0)):
            if not 0 <= Int(positions[row]) <= table.dim_size(0) - length:
                raise Error("whisper2max.add_positions: a position lies outside of the table")
        var output_data, x_data, table_data = output.unsafe_ptr(), x.unsafe_ptr(), table.unsafe_ptr()

        def some_rows(first: Int, end: Int) {imm}:
            for place in range(first, end):
                var row, t = divmod(place, length)
                var entry = (Int(positions[0 if shared else row]) + t) * width
                for i in range(0, width, LANES):
                    var value = x_data.unsafe_offset(place * width + i).unsafe_load[width=LANES]()
                    output_data.unsafe_offset(place * width + i).unsafe_store(
                        value + table_data.unsafe_offset(entry + i).unsafe_load[width=LANES]()
                    )

        share_range(batch * length, batch * length * width * 12, some_rows)
