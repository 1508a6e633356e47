"""How a thread of a device reads, and what the threads of one block do together."""

from max.gpu import barrier, thread_idx
from max.gpu.primitives import warp
from std.memory import unsafe_stack_allocation
from std.sys import size_of

comptime WIDTH = 8
"""Values that a thread reads at once: 16 bytes of bfloat16."""

comptime Values = SIMD[DType.float32, WIDTH]

comptime THREADS = 128
"""Of a block."""

comptime WARP = 32
"""Threads that shuffle values among themselves. Where a device has warps of 64, halves of them do."""

comptime WARPS = THREADS // WARP


@always_inline
def stored[dtype: DType](values: Pointer[Scalar[dtype], _]) -> SIMD[dtype, WIDTH]:
    """`WIDTH` values, aligned."""
    return values.unsafe_load[width=WIDTH, alignment=WIDTH * size_of[dtype]()]()


@always_inline
def loaded[dtype: DType](values: Pointer[Scalar[dtype], _]) -> Values:
    """The same as float32."""
    return stored(values).cast[DType.float32]()


@always_inline
def warp_sum(value: Float32) -> Float32:
    """The sum over the threads of a warp, in all of them; all must call it."""
    var sum = value
    comptime for i in range(5):
        sum += warp.shuffle_xor(sum, UInt32(1 << i))
    return sum


@always_inline
def block_sum[threads: Int = THREADS](value: Float32) -> Float32:
    """The sum over the threads of a block, in all of them; all must call it."""
    comptime warps = threads // WARP
    var sums = unsafe_stack_allocation[warps, Float32, address_space=AddressSpace.SHARED]()
    var tid = Int(thread_idx.x)
    var of_warp = warp_sum(value)
    barrier()  # what a call before this one wrote was read
    if tid % WARP == 0:
        sums[unsafe_offset=tid // WARP] = of_warp
    barrier()
    var sum = Float32(0)
    comptime for i in range(warps):
        sum += sums[unsafe_offset=i]
    return sum
