"""Attention of few queries to keys and values that lie in pools, and what writes into these; on a CPU or a device.

    joined        [rows, length, query | key | value]         the new tokens of every row, side by side
    cache         [slots, layers, context, state]             position p of a row is in slot slots[row, p]
    pool          [audios, layers, frames, state]             what a row hears is in place audios[row]

A token attends to what its row's slots hold before the first new token, and to the new tokens up to itself, which it
reads where they came from. So all tokens are computed at once, and each stores its own key and value in the cache.

On a device a block of threads has one head of one token. A key is read by head_dim / 8 neighbouring threads, 8
values each, which add up by shuffles; with 128 threads and heads of 64 values, 16 keys go on at once:

    threads      0 .. 7     8 .. 15   ..  120 .. 127
    keys         0          1             15             scores[p] = query . key[p] / sqrt(head_dim), in shared memory
                 16         17            31
    values       0          1             15             16 sums of exp(scores[p] - max) * value[p], added up at the end

A row alone has few blocks, whose time is the latency of memory: so every thread asks for several keys before it needs the
first, and for the 1500 frames of a recording, which every token attends to, a block has more threads.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from extensibility import _MutableInputTensor as MutableInputTensor
from max.gpu import barrier, block_idx, thread_idx
from max.gpu.host import DeviceContext
from max.gpu.primitives import warp
from std.math import ceildiv, exp
from std.memory import unsafe_stack_allocation
from std.sys import size_of

from .block import THREADS, Values, WARP, WIDTH, loaded, stored
from .share import share_range

comptime HEARING = 512
"""Threads of a block that attends to a recording."""

comptime Read[dtype: DType] = Pointer[Scalar[dtype], ImmUntrackedOrigin]


@always_inline
def read[dtype: DType](values: Pointer[Scalar[dtype], _]) -> Read[dtype]:
    """The same place, whatever else is read or written there."""
    return values.unsafe_mut_cast[False]().unsafe_origin_cast[ImmUntrackedOrigin]()


@always_inline
def place_of[of_slots: Bool](slots: Pointer[Int32, _], position: Int, slot_stride: Int, state: Int) -> Int:
    """Values from those of position 0 in slot 0, or in the one slot that there is, to those of a position."""
    comptime if of_slots:
        return Int(slots.unsafe_offset(position).unsafe_load()) * slot_stride + position * state
    else:
        return position * state


@always_inline
def attend_block[
    dtype: DType, head_dim: Int, most: Int, of_slots: Bool, threads: Int, ahead: Int
](
    output: Pointer[mut=True, Scalar[dtype], _],
    query: Read[dtype],
    keys: Read[dtype],
    values: Read[dtype],
    slots: Pointer[Int32, _],
    slot_stride: Int,
    state: Int,
    stored_: Int,
    new_keys: Read[dtype],
    new_values: Read[dtype],
    new_stride: Int,
    count: Int,
):
    """One head of one token, by the threads of a block.

    Parameters:
        dtype: Of everything that is stored.
        head_dim: Values of a head.
        most: Largest `count`.
        of_slots: Whether every position has a slot of its own, and new ones follow those that lie in slots.
        threads: Of the block.
        ahead: Keys or values that a thread asks for at once.

    Args:
        output: The head's values.
        query: The head's values.
        keys: The head's values of position 0 in slot 0.
        values: The same.
        slots: Of every position, if `of_slots`.
        slot_stride: Values between two slots.
        state: Values between two positions.
        stored_: Positions that lie in slots; those after them are new.
        new_keys: The head's values of the first new position, if there is one.
        new_values: The same.
        new_stride: Values between two new positions.
        count: Positions, stored and new ones, at least one.
    """
    comptime per_key = head_dim // WIDTH
    comptime groups = threads // per_key
    comptime warps = threads // WARP
    comptime scale = Float32(Float64(head_dim) ** -0.5)
    comptime assert per_key * WIDTH == head_dim and WARP % per_key == 0, "head_dim must be 8, 16, 32, 64, 128 or 256"
    var scores = unsafe_stack_allocation[most, Float32, address_space=AddressSpace.SHARED]()
    var sums = unsafe_stack_allocation[warps * head_dim, Float32, address_space=AddressSpace.SHARED]()
    var of_warps = unsafe_stack_allocation[warps, Float32, address_space=AddressSpace.SHARED]()
    var tid = Int(thread_idx.x)
    var group, lane = divmod(tid, per_key)
    var column = lane * WIDTH
    var last = count - 1

    @always_inline
    def read_at(stored_ones: Read[dtype], new_ones: Read[dtype], p: Int) {imm} -> SIMD[dtype, WIDTH]:
        var at = stored_ones.unsafe_offset(place_of[of_slots](slots, p, slot_stride, state))
        comptime if of_slots:
            at = at if p < stored_ else new_ones.unsafe_offset((p - stored_) * new_stride)
        return stored(at.unsafe_offset(column))

    var q = loaded(query.unsafe_offset(column)) * scale
    var largest = Float32.MIN_FINITE
    # all threads of a warp go round equally often, because a shuffle waits for the whole warp; those beyond the last
    # position read it again
    for first in range(group, count + group, groups * ahead):
        var there = Array[SIMD[dtype, WIDTH], ahead](fill=0)
        comptime for i in range(ahead):
            there[i] = read_at(keys, new_keys, min(first + i * groups, last))
        comptime for i in range(ahead):
            var p = first + i * groups
            var score = (there[i].cast[DType.float32]() * q).reduce_add()
            comptime for bit in range(5):
                comptime if 1 << bit < per_key:
                    score += warp.shuffle_xor(score, UInt32(1 << bit))
            if lane == 0 and p < count:
                scores[unsafe_offset=p] = score
            largest = max(largest, score)
    comptime for bit in range(5):
        comptime if 1 << bit >= per_key:
            largest = max(largest, warp.shuffle_xor(largest, UInt32(1 << bit)))
    if tid % WARP == 0:
        of_warps[unsafe_offset=tid // WARP] = largest
    barrier()
    comptime for w in range(warps):
        largest = max(largest, of_warps[unsafe_offset=w])
    barrier()
    var total = Float32(0)
    var mixed = Values(0)
    for first in range(group, count + group, groups * ahead):
        var there = Array[SIMD[dtype, WIDTH], ahead](fill=0)
        comptime for i in range(ahead):
            there[i] = read_at(values, new_values, min(first + i * groups, last))
        comptime for i in range(ahead):
            var p = first + i * groups
            var weight = exp(scores[unsafe_offset=min(p, last)] - largest) if p < count else Float32(0)
            mixed = there[i].cast[DType.float32]().fma(weight, mixed)
            total += weight
    comptime for bit in range(5):
        comptime if 1 << bit >= per_key:
            total += warp.shuffle_xor(total, UInt32(1 << bit))
            comptime for i in range(WIDTH):
                mixed[i] += warp.shuffle_xor(mixed[i], UInt32(1 << bit))
    if tid % WARP < per_key:
        sums.unsafe_offset(tid // WARP * head_dim + column).unsafe_store(mixed)
    if tid % WARP == 0:
        of_warps[unsafe_offset=tid // WARP] = total
    barrier()
    for i in range(tid, head_dim, threads):
        var sum, all = Float32(0), Float32(0)
        comptime for w in range(warps):
            sum += sums[unsafe_offset=w * head_dim + i]
            all += of_warps[unsafe_offset=w]
        output.unsafe_offset(i).unsafe_store((sum / all).cast[dtype]())


def attend_on_cpu[
    dtype: DType, head_dim: Int, of_slots: Bool
](
    output: Pointer[mut=True, Scalar[dtype], _],
    query: Read[dtype],
    keys: Read[dtype],
    values: Read[dtype],
    slots: Pointer[Int32, _],
    slot_stride: Int,
    state: Int,
    stored: Int,
    new_keys: Read[dtype],
    new_values: Read[dtype],
    new_stride: Int,
    count: Int,
):
    """The same by one thread."""
    comptime scale = Float32(Float64(head_dim) ** -0.5)
    comptime chunks = head_dim // WIDTH
    var scores = List[Float32](unsafe_uninit_length=count)
    var largest = Float32.MIN_FINITE
    for p in range(count):
        var key = new_keys.unsafe_offset((p - stored) * new_stride)
        if p < stored:
            key = keys.unsafe_offset(place_of[of_slots](slots, p, slot_stride, state))
        var products = Values(0)
        comptime for c in range(chunks):
            var of_key = key.unsafe_offset(c * WIDTH).unsafe_load[width=WIDTH]().cast[DType.float32]()
            var of_query = query.unsafe_offset(c * WIDTH).unsafe_load[width=WIDTH]().cast[DType.float32]()
            products = of_key.fma(of_query * scale, products)
        scores[p] = products.reduce_add()
        largest = max(largest, scores[p])
    var total = Float32(0)
    var mixed = Array[Values, chunks](fill=0)
    for p in range(count):
        var value = new_values.unsafe_offset((p - stored) * new_stride)
        if p < stored:
            value = values.unsafe_offset(place_of[of_slots](slots, p, slot_stride, state))
        var weight = exp(scores[p] - largest)
        total += weight
        comptime for c in range(chunks):
            var of_value = value.unsafe_offset(c * WIDTH).unsafe_load[width=WIDTH]().cast[DType.float32]()
            mixed[c] = of_value.fma(weight, mixed[c])
    comptime for c in range(chunks):
        output.unsafe_offset(c * WIDTH).unsafe_store((mixed[c] / total).cast[dtype]())


# ---------------------------------------------------------------------------------------- a row's own tokens


def slot_attention_kernel[
    dtype: DType, head_dim: Int, most: Int
](
    output: Pointer[Scalar[dtype], MutAnyOrigin],
    joined: Pointer[Scalar[dtype], ImmutAnyOrigin],
    positions: Pointer[Int64, ImmutAnyOrigin],
    slots: Pointer[Int32, ImmutAnyOrigin],
    keys: Pointer[Scalar[dtype], MutAnyOrigin],
    values: Pointer[Scalar[dtype], MutAnyOrigin],
    length_: Int32,
    context_: Int32,
    state_: Int32,
    slot_stride: Int64,
):
    """Head x of token y of row z, for block (x, y, z). `keys` and `values` begin at the layer's."""
    var length, context, state = Int(length_), Int(context_), Int(state_)
    var head, token, row = Int(block_idx.x), Int(block_idx.y), Int(block_idx.z)
    var column, position = head * head_dim, Int(positions.unsafe_offset(row).unsafe_load())
    var of_row = slots.unsafe_offset(row * context)
    var first = read(joined).unsafe_offset(row * length * 3 * state + column)
    var mine = first.unsafe_offset(token * 3 * state)
    var place = place_of[True](of_row, position + token, Int(slot_stride), state) + column
    for i in range(Int(thread_idx.x), head_dim, THREADS):
        keys.unsafe_offset(place + i).unsafe_store(mine.unsafe_offset(state + i).unsafe_load())
        values.unsafe_offset(place + i).unsafe_store(mine.unsafe_offset(2 * state + i).unsafe_load())
    attend_block[dtype, head_dim, most, True, THREADS, 4](
        output.unsafe_offset((row * length + token) * state + column),
        mine,
        read(keys).unsafe_offset(column),
        read(values).unsafe_offset(column),
        of_row,
        Int(slot_stride),
        state,
        position,
        first.unsafe_offset(state),
        first.unsafe_offset(2 * state),
        3 * state,
        position + token + 1,
    )


def slot_attention_on_cpu[
    dtype: DType, head_dim: Int
](
    output: Pointer[mut=True, Scalar[dtype], _],
    joined: Pointer[Scalar[dtype], _],
    positions: Pointer[Int64, _],
    slots: Pointer[Int32, _],
    keys: Pointer[mut=True, Scalar[dtype], _],
    values: Pointer[mut=True, Scalar[dtype], _],
    rows: Int,
    length: Int,
    context: Int,
    state: Int,
    slot_stride: Int,
):
    """The same with a thread for some heads of some rows."""
    var heads = state // head_dim

    def some(begin: Int, end: Int) {imm}:
        for unit in range(begin, end):
            var row, head = divmod(unit, heads)
            var column, position = head * head_dim, Int(positions.unsafe_offset(row).unsafe_load())
            var of_row = slots.unsafe_offset(row * context)
            var first = read(joined).unsafe_offset(row * length * 3 * state + column)
            for token in range(length):
                var mine = first.unsafe_offset(token * 3 * state)
                var place = place_of[True](of_row, position + token, slot_stride, state) + column
                for i in range(head_dim):
                    keys.unsafe_offset(place + i).unsafe_store(mine.unsafe_offset(state + i).unsafe_load())
                    values.unsafe_offset(place + i).unsafe_store(mine.unsafe_offset(2 * state + i).unsafe_load())
                attend_on_cpu[dtype, head_dim, True](
                    output.unsafe_offset((row * length + token) * state + column),
                    mine,
                    read(keys).unsafe_offset(column),
                    read(values).unsafe_offset(column),
                    of_row,
                    slot_stride,
                    state,
                    position,
                    first.unsafe_offset(state),
                    first.unsafe_offset(2 * state),
                    3 * state,
                    position + token + 1,
                )

    share_range(rows * heads, rows * length * context * state * size_of[dtype](), some)


def require_rows(
    positions: InputTensor[dtype=DType.int64, rank=1, ...],
    slots: InputTensor[dtype=DType.int32, rank=2, ...],
    count: Int,
    length: Int,
    context: Int,
) raises:
    """Raise unless all positions of the rows are there, and in one of `count` slots. For memory of the CPU."""
    for row in range(positions.dim_size(0)):
        var position = Int(positions[row])
        if position < 0 or position + length > context:
            raise Error("whisper2max.slot_attention: a position lies outside the text context")
        for p in range(position + length):
            if not 0 <= Int(slots[row, p]) < count:
                raise Error("whisper2max.slot_attention: a row names a slot that the caches do not hold")


@extensibility.register("whisper2max.slot_attention")
struct SlotAttention:
    """Shapes: joined [rows, length, 3 * state]; positions [rows], of the first new token of each row; slots [rows,
    context]; caches [slots, layers, context, state], in which the new keys and values are stored; output [rows, length,
    state]. Two rows may not store in the same place, nor one read what another stores.

    On a device positions and slots are trusted: who calls has to check them.
    """

    @staticmethod
    def execute[
        dtype: DType, //, layer: Int, head_dim: Int, most: Int, target: StaticString
    ](
        output: OutputTensor[dtype=dtype, rank=3, ...],
        joined: InputTensor[dtype=dtype, rank=3, ...],
        positions: InputTensor[dtype=DType.int64, rank=1, ...],
        slots: InputTensor[dtype=DType.int32, rank=2, ...],
        cache_keys: MutableInputTensor[dtype=dtype, rank=4, ...],
        cache_values: MutableInputTensor[dtype=dtype, rank=4, ...],
        ctx: DeviceContext,
    ) raises:
        var rows, length, state = joined.dim_size(0), joined.dim_size(1), joined.dim_size(2) // 3
        var count, layers, context = cache_keys.dim_size(0), cache_keys.dim_size(1), cache_keys.dim_size(2)
        if cache_keys.dim_size(3) != state or state % head_dim != 0 or layer >= layers or context > most:
            raise Error("whisper2max.slot_attention: the caches are those of other dimensions")
        if cache_values.dim_size(0) != count or cache_values.dim_size(1) != layers:
            raise Error("whisper2max.slot_attention: the caches of keys and values have other shapes")
        if positions.dim_size(0) != rows or slots.dim_size(0) != rows or slots.dim_size(1) != context:
            raise Error("whisper2max.slot_attention: positions or slots are given for other rows or positions")
        var first, slot_stride = layer * context * state, layers * context * state
        var keys = cache_keys.unsafe_ptr().unsafe_offset(first)
        var values = cache_values.unsafe_ptr().unsafe_offset(first)
        comptime if target == "gpu":
            ctx.enqueue_function[slot_attention_kernel[dtype, head_dim, most]](
                output.unsafe_ptr(),
                joined.unsafe_ptr(),
                positions.unsafe_ptr(),
                slots.unsafe_ptr(),
                keys,
                values,
                Int32(length),
                Int32(context),
                Int32(state),
                Int64(slot_stride),
                grid_dim=(state // head_dim, length, rows),
                block_dim=THREADS,
            )
        else:
            require_rows(positions, slots, count, length, context)
            slot_attention_on_cpu[dtype, head_dim](
                output.unsafe_ptr(),
                joined.unsafe_ptr(),
                positions.unsafe_ptr(),
                slots.unsafe_ptr(),
                keys,
                values,
                rows,
                length,
                context,
                state,
                slot_stride,
            )


# ---------------------------------------------------------------------------------------- what a row hears


def heard_attention_kernel[
    dtype: DType, head_dim: Int, most: Int
](
    output: Pointer[Scalar[dtype], MutAnyOrigin],
    query: Pointer[Scalar[dtype], ImmutAnyOrigin],
    audios: Pointer[Int64, ImmutAnyOrigin],
    keys: Pointer[Scalar[dtype], ImmutAnyOrigin],
    values: Pointer[Scalar[dtype], ImmutAnyOrigin],
    length_: Int32,
    frames_: Int32,
    state_: Int32,
    audio_stride: Int64,
):
    """Head x of token y of row z, for block (x, y, z). `keys` and `values` begin at the layer's."""
    var length, frames, state = Int(length_), Int(frames_), Int(state_)
    var head, token, row = Int(block_idx.x), Int(block_idx.y), Int(block_idx.z)
    var mine = (row * length + token) * state + head * head_dim
    var audio = Int(audios.unsafe_offset(row).unsafe_load()) * Int(audio_stride) + head * head_dim
    var of_keys, of_values = read(keys).unsafe_offset(audio), read(values).unsafe_offset(audio)
    attend_block[dtype, head_dim, most, False, HEARING, 8](
        output.unsafe_offset(mine),
        read(query).unsafe_offset(mine),
        of_keys,
        of_values,
        audios.unsafe_bitcast[Int32](),  # not read
        0,
        state,
        frames,
        of_keys,
        of_values,
        0,
        frames,
    )


def heard_attention_on_cpu[
    dtype: DType, head_dim: Int
](
    output: Pointer[mut=True, Scalar[dtype], _],
    query: Pointer[Scalar[dtype], _],
    audios: Pointer[Int64, _],
    keys: Pointer[Scalar[dtype], _],
    values: Pointer[Scalar[dtype], _],
    rows: Int,
    length: Int,
    frames: Int,
    state: Int,
    audio_stride: Int,
):
    """The same with a thread for some heads of some rows."""
    var heads = state // head_dim

    def some(begin: Int, end: Int) {imm}:
        for unit in range(begin, end):
            var row, head = divmod(unit, heads)
            var audio = Int(audios.unsafe_offset(row).unsafe_load()) * audio_stride + head * head_dim
            var of_keys, of_values = read(keys).unsafe_offset(audio), read(values).unsafe_offset(audio)
            for token in range(length):
                var mine = (row * length + token) * state + head * head_dim
                attend_on_cpu[dtype, head_dim, False](
                    output.unsafe_offset(mine),
                    read(query).unsafe_offset(mine),
                    of_keys,
                    of_values,
                    audios.unsafe_bitcast[Int32](),  # not read
                    0,
                    state,
                    frames,
                    of_keys,
                    of_values,
                    0,
                    frames,
                )

    share_range(rows * heads, rows * length * frames * state * size_of[dtype](), some)


@extensibility.register("whisper2max.heard_attention")
struct HeardAttention:
    """Shapes: query and output [rows, length, state]; audios [rows], the place in the pools of what each row hears; keys
    and values [audios, layers, frames, state].

    On a device audios are trusted: who calls has to check them.
    """

    @staticmethod
    def execute[
        dtype: DType, //, layer: Int, head_dim: Int, most: Int, target: StaticString
    ](
        output: OutputTensor[dtype=dtype, rank=3, ...],
        query: InputTensor[dtype=dtype, rank=3, ...],
        audios: InputTensor[dtype=DType.int64, rank=1, ...],
        keys: InputTensor[dtype=dtype, rank=4, ...],
        values: InputTensor[dtype=dtype, rank=4, ...],
        ctx: DeviceContext,
    ) raises:
        var rows, length, state = query.dim_size(0), query.dim_size(1), query.dim_size(2)
        var count, layers, frames = keys.dim_size(0), keys.dim_size(1), keys.dim_size(2)
        if keys.dim_size(3) != state or state % head_dim != 0 or layer >= layers or frames > most:
            raise Error("whisper2max.heard_attention: the pools are those of other dimensions")
        if values.dim_size(0) != count or values.dim_size(1) != layers or values.dim_size(2) != frames:
            raise Error("whisper2max.heard_attention: the pools of keys and values have other shapes")
        if audios.dim_size(0) != rows:
            raise Error("whisper2max.heard_attention: audios are given for another number of rows")
        var first, audio_stride = layer * frames * state, layers * frames * state
        comptime if target == "gpu":
            ctx.enqueue_function[heard_attention_kernel[dtype, head_dim, most]](
                output.unsafe_ptr(),
                query.unsafe_ptr(),
                audios.unsafe_ptr(),
                keys.unsafe_ptr().unsafe_offset(first),
                values.unsafe_ptr().unsafe_offset(first),
                Int32(length),
                Int32(frames),
                Int32(state),
                Int64(audio_stride),
                grid_dim=(state // head_dim, length, rows),
                block_dim=HEARING,
            )
        else:
            for row in range(rows):
                if not 0 <= Int(audios[row]) < count:
                    raise Error("whisper2max.heard_attention: a row hears an audio that the pools do not hold")
            heard_attention_on_cpu[dtype, head_dim](
                output.unsafe_ptr(),
                query.unsafe_ptr(),
                audios.unsafe_ptr(),
                keys.unsafe_ptr().unsafe_offset(first),
                values.unsafe_ptr().unsafe_offset(first),
                rows,
                length,
                frames,
                state,
                audio_stride,
            )


def store_kernel[
    dtype: DType
](
    keys: Pointer[Scalar[dtype], MutAnyOrigin],
    values: Pointer[Scalar[dtype], MutAnyOrigin],
    joined: Pointer[Scalar[dtype], ImmutAnyOrigin],
    places: Pointer[Int64, ImmutAnyOrigin],
    frames_: Int32,
    state_: Int32,
    audio_stride: Int64,
):
    """Frame x of window y, for block (x, y). `keys` and `values` begin at the layer's."""
    var frames, state = Int(frames_), Int(state_)
    var frame, window = Int(block_idx.x), Int(block_idx.y)
    var read = joined.unsafe_offset((window * frames + frame) * 2 * state)
    var place = Int(places.unsafe_offset(window).unsafe_load()) * Int(audio_stride) + frame * state
    for i in range(Int(thread_idx.x), state, THREADS):
        keys.unsafe_offset(place + i).unsafe_store(read.unsafe_offset(i).unsafe_load())
        values.unsafe_offset(place + i).unsafe_store(read.unsafe_offset(state + i).unsafe_load())


@extensibility.register("whisper2max.store_heard")
struct StoreHeard:
    """In place. Shapes: pools of keys and values [audios, layers, frames, state]; joined [windows, frames, 2 * state];
    places [windows] in the pools.

    On a device places are trusted: who calls has to check them.
    """

    @staticmethod
    def execute[
        dtype: DType, //, layer: Int, target: StaticString
    ](
        keys: MutableInputTensor[dtype=dtype, rank=4, ...],
        values: MutableInputTensor[dtype=dtype, rank=4, ...],
        joined: InputTensor[dtype=dtype, rank=3, ...],
        places: InputTensor[dtype=DType.int64, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var windows, frames, state = joined.dim_size(0), joined.dim_size(1), joined.dim_size(2) // 2
        var count, layers = keys.dim_size(0), keys.dim_size(1)
        if keys.dim_size(2) != frames or keys.dim_size(3) != state or layer >= layers:
            raise Error("whisper2max.store_heard: the pools are those of other dimensions")
        if values.dim_size(0) != count or values.dim_size(1) != layers or values.dim_size(2) != frames:
            raise Error("whisper2max.store_heard: the pools of keys and values have other shapes")
        if places.dim_size(0) != windows:
            raise Error("whisper2max.store_heard: places are given for another number of windows")
        var first, audio_stride = layer * frames * state, layers * frames * state
        var pool_keys = keys.unsafe_ptr().unsafe_offset(first)
        var pool_values = values.unsafe_ptr().unsafe_offset(first)
        comptime if target == "gpu":
            ctx.enqueue_function[store_kernel[dtype]](
                pool_keys,
                pool_values,
                joined.unsafe_ptr(),
                places.unsafe_ptr(),
                Int32(frames),
                Int32(state),
                Int64(audio_stride),
                grid_dim=(frames, windows),
                block_dim=THREADS,
            )
        else:
            for window in range(windows):
                if not 0 <= Int(places[window]) < count:
                    raise Error("whisper2max.store_heard: a place is not in the pools")
                for frame in range(frames):
                    var read = joined.unsafe_ptr().unsafe_offset((window * frames + frame) * 2 * state)
                    var place = Int(places[window]) * audio_stride + frame * state
                    for i in range(state):
                        pool_keys.unsafe_offset(place + i).unsafe_store(read.unsafe_offset(i).unsafe_load())
                        pool_values.unsafe_offset(place + i).unsafe_store(read.unsafe_offset(state + i).unsafe_load())
