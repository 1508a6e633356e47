"""PTX run by numpy: what a small GPU kernel computes, where there is no GPU.

    kernel = Kernel(text)
    kernel.run(grid=(2, 3), block=128, arguments=[output, x, np.int32(5)])     # arrays are changed in place

All threads of the grid go on together: a register is an array with an element for each of them. The threads at the
lowest instruction go first, so branches part them and they meet again. A barrier holds the threads of a block; a
shuffle holds the lanes of a warp until all of them that still run have come.

What a GPU would stop at, wait for in vain, or answer differently every time is a `Fault`:

    outside       a load or store that does not lie in one argument, or in one shared variable: all have red zones
    misaligned    a load or store at no multiple of its size
    waiting       a shuffle or a barrier that others of the warp or the block never reach
    races         shared memory that a thread writes and another reads or changes with no barrier between; global memory
                  that a block writes and another reads or changes; `ld.global.nc` of what is written at all

Races in global memory between threads of one block are found only where one instruction writes two values to one place.
Approximate instructions are as good as numpy here. There are no tensor cores, no atomics, no local memory and no calls:
what is not known raises NotImplementedError with the instruction.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

WARP = 32

RED_ZONE = 256
"""Bytes before and after every array, which begins at a multiple of them."""

UNSET = np.uint64(2**64 - 1)
"""What a thread finds in a register that it has not set: no address, and NaN as a float of any width."""


class Fault(Exception):
    """What a GPU would stop at, wait for in vain, or answer differently every time."""


# ---------------------------------------------------------------------------------------- values and bits


DTYPES = {
    **{f"{letter}{bits}": np.dtype(f"uint{bits}") for letter in "bu" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"f{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    "pred": np.dtype(bool),
}
HALVES = {"bf16x2": "bf16", "f16x2": "f16"}
KINDS = {*DTYPES, *HALVES, "bf16"}


def size_of(kind: str) -> int:
    """Bytes."""
    return 4 if kind in HALVES else 2 if kind == "bf16" else DTYPES[kind].itemsize


def is_float(kind: str) -> bool:
    return "f" in kind


def values_of(bits: np.ndarray, kind: str) -> np.ndarray:
    """Bits, uint64 [n], as values [n]; those of two halves [2, n], the lower first. bfloat16 are float64."""
    if kind in HALVES:
        return np.stack([values_of(bits, HALVES[kind]), values_of(bits >> np.uint64(16), HALVES[kind])])
    if kind == "bf16":
        return (bits << np.uint64(16)).astype(np.uint32).view(np.float32).astype(np.float64)
    dtype = DTYPES[kind]
    if is_float(kind):
        return bits.astype(f"uint{8 * dtype.itemsize}", copy=False).view(dtype)
    return bits.astype(dtype, copy=False)


def bits_of(values: np.ndarray, kind: str) -> np.ndarray:
    """The reverse; floats are rounded to the nearest."""
    if kind in HALVES:
        lower, upper = (bits_of(half, HALVES[kind]) for half in values)
        return lower | upper << np.uint64(16)
    if kind == "bf16":
        return bfloat16_bits(values.astype(np.float64, copy=False))
    dtype = DTYPES[kind]
    values = np.ascontiguousarray(values, dtype)
    return values.view(f"uint{8 * dtype.itemsize}").astype(np.uint64)


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """float64 as bits of the nearest bfloat16, rounded once: by way of float32 some would go the wrong way."""
    bits, dropped = values.view(np.uint64), np.uint64(52 - 7)
    odd = bits >> dropped & np.uint64(1)
    rounded = (bits + np.uint64(2**44 - 1) + odd >> dropped << dropped).view(np.float64)
    tiny = np.abs(values) < 2.0**-126  # multiples of the smallest
    rounded = np.where(tiny, np.rint(values * 2.0**133) * 2.0**-133, rounded)
    single = rounded.astype(np.float32).view(np.uint32).astype(np.uint64)
    return np.where(np.isnan(values), np.uint64(0x7FFF), single >> np.uint64(16))


def flushed(values: np.ndarray) -> np.ndarray:
    """float32 with zeros for numbers that are too small for a whole fraction."""
    return np.where(np.abs(values) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), values), values)


# ---------------------------------------------------------------------------------------- operations


def divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Quotients; those of integers towards zero, and any number where a GPU says nothing."""
    if a.dtype.kind == "f":
        return a / b
    b = np.where(b == 0, b.dtype.type(1), b)
    return (a - np.fmod(a, b)) // b


def remainder(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.fmod(a, np.where(b == 0, b.dtype.type(1), b))


def shifted_left(a: np.ndarray, by: np.ndarray) -> np.ndarray:
    bits = 8 * a.dtype.itemsize
    return np.where(by < bits, a << np.minimum(by, bits - 1).astype(a.dtype), a.dtype.type(0))


def shifted_right(a: np.ndarray, by: np.ndarray) -> np.ndarray:
    bits = 8 * a.dtype.itemsize
    shifted = a >> np.minimum(by, bits - 1).astype(a.dtype)
    return shifted if a.dtype.kind == "i" else np.where(by < bits, shifted, a.dtype.type(0))


def fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c in float64, which has room for products of float32: then only the sum is rounded twice."""
    return a.astype(np.float64) * b + c


OPERATIONS: dict[str, Callable[..., np.ndarray]] = {
    "abs": np.abs,
    "add": np.add,
    "and": np.bitwise_and,
    "copysign": lambda sign, size: np.copysign(size, sign),
    "div": divided,
    "ex2": np.exp2,
    "fma": fused,
    "lg2": np.log2,
    "mad": lambda a, b, c: a * b + c,
    "max": np.fmax,
    "min": np.fmin,
    "mul": np.multiply,
    "neg": np.negative,
    "not": np.invert,
    "or": np.bitwise_or,
    "rcp": np.reciprocal,
    "rem": remainder,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "shl": shifted_left,
    "shr": shifted_right,
    "sqrt": np.sqrt,
    "sub": np.subtract,
    "tanh": np.tanh,
    "xor": np.bitwise_xor,
}
COMPARISONS: dict[str, Callable[..., np.ndarray]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
UNORDERED = {f"{name}u": name for name in COMPARISONS}
ORDER = ("nan", "num")
"""Whether one of both is NaN, or none."""
"""The same that hold of NaN, too."""

SHUFFLES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "bfly": np.bitwise_xor,
    "down": np.add,
    "idx": lambda lane, by: np.broadcast_to(by % WARP, lane.shape),
    "up": np.subtract,
}
"""From the lane that reads to the one that it reads."""

TO_INTEGERS: dict[str, Callable[..., np.ndarray]] = {"rmi": np.floor, "rni": np.rint, "rpi": np.ceil, "rzi": np.trunc}

MODIFIERS = {
    **dict.fromkeys(OPERATIONS, {"approx", "ftz", "full", "lo", "rn", "wide"}),
    "bar": {"sync"},
    "bra": {"uni"},
    "cvt": {"ftz", "rn", *TO_INTEGERS},
    "cvta": {"to", "global"},
    "ld": {"global", "nc", "param", "param::entry", "shared", "v2", "v4"},
    "mov": set(),
    "ret": {"uni"},
    "selp": set(),
    "setp": {"and", "ftz", "or", *COMPARISONS, *UNORDERED, *ORDER},
    "shfl": {"sync", *SHUFFLES},
    "st": {"global", "shared", "v2", "v4"},
}
"""Words of instructions that are understood, besides kinds."""


# ---------------------------------------------------------------------------------------- parsing


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        text: All of it.
        name: Its first word.
        modifiers: Its other words that are no kinds.
        kinds: Of its result and of its operands, or one of both.
        operands: As they are written.
        predicate: The register that says which threads do it, if there is one.
        negated: Whether it says which do not.
    """

    text: str
    name: str
    modifiers: frozenset[str]
    kinds: tuple[str, ...]
    operands: tuple[str, ...]
    predicate: str | None = None
    negated: bool = False

    @classmethod
    def parse(cls, text: str) -> "Instruction":
        parts = re.fullmatch(r"(?:@(!?)(%\w+) )?([\w.:]+) ?(.*)", text)
        if parts is None:
            raise NotImplementedError(text)
        negation, predicate, words, operands = parts.groups()
        name, *words = words.split(".")
        return cls(
            text=text,
            name=name,
            modifiers=frozenset(word for word in words if word not in KINDS),
            kinds=tuple(word for word in words if word in KINDS),
            operands=tuple(re.findall(r"[{\[][^}\]]*[}\]]|[^,\s]+", operands)),
            predicate=predicate,
            negated=negation == "!",
        )

    @property
    def changes_threads(self) -> bool:
        """Whether other threads may go on after it."""
        return self.name in ("bar", "bra", "ret", "shfl")


class Kernel:
    """The only entry of a PTX text.

    Attributes:
        name: Of the entry.
        parameters: Bytes of every parameter by its name.
        code: The instructions.
        labels: Where in the code they stand.
        shared: Bytes of every variable in shared memory by its name; None if they are given at the launch.
    """

    def __init__(self, text: str):
        text = re.sub(r"//.*", "", text)
        head = re.search(r"\.entry\s+([\w$]+)\s*\((.*?)\)[^{;]*\{", text, re.DOTALL)
        if head is None or len(re.findall(r"\.(?:entry|func)\b", text)) != 1:
            raise NotImplementedError("PTX with no entry, with several, or with other functions")
        self.name = head[1]
        self.parameters = {}
        for parameter in filter(None, map(str.strip, head[2].split(","))):
            declared = re.fullmatch(r"\.param \.(\w+)(?: \.ptr(?: \.\w+)? \.align \d+)? ([\w$]+)", parameter)
            if declared is None:
                raise NotImplementedError(parameter)
            self.parameters[declared[2]] = size_of(declared[1])
        self.shared = {}
        for kind, name, many in re.findall(r"\.shared\s+\.align\s+\d+\s+\.(\w+)\s+([\w$]+)((?:\[\d*\])?)\s*;", text):
            self.shared[name] = None if many == "[]" else size_of(kind) * int(many.strip("[]") or 1)
        self.code: list[Instruction] = []
        self.labels: dict[str, int] = {}
        for piece in re.split(r"[;\n]", text[head.end() : text.rindex("}")]):
            piece = " ".join(piece.split()).lstrip("{} ")
            if piece.endswith(":"):
                self.labels[piece[:-1]] = len(self.code)
            elif piece and not piece.startswith("."):
                self.code.append(Instruction.parse(piece))

    @cached_property
    def stretches(self) -> dict[int, int]:
        """Where instructions begin that the same threads do one after another: where they end."""
        begins = {0, len(self.code), *self.labels.values()}
        for at, instruction in enumerate(self.code):
            if instruction.changes_threads:
                begins |= {at, at + 1}
        begins = sorted(begins)
        return dict(zip(begins, begins[1:], strict=False))

    def run(
        self,
        grid: int | tuple[int, ...],
        block: int | tuple[int, ...],
        arguments: Sequence[np.ndarray | np.generic],
        dynamic_shared: int = 0,
    ) -> None:
        """Launch it.

        Args:
            grid: Blocks along x, y and z.
            block: Threads along x, y and z.
            arguments: Arrays, which lie in device memory and are changed in place, and numpy scalars.
            dynamic_shared: Bytes of the shared variable that is declared without a size.

        Raises:
            Fault: As above; the arrays are as they were.
        """
        arrays = [each for each in arguments if isinstance(each, np.ndarray)]
        labels = [f"argument {i}" for i, each in enumerate(arguments) if isinstance(each, np.ndarray)]
        memory = Memory(dict(zip(labels, (each.nbytes for each in arrays), strict=True)))
        parameters, begins = {}, iter(memory.begins.tolist())
        for (name, size), argument in zip(self.parameters.items(), arguments, strict=True):
            is_array = isinstance(argument, np.ndarray)
            assert size == (8 if is_array else argument.itemsize), f"{name} has {size} bytes"
            assert not is_array or argument.flags.c_contiguous, f"{name} is not contiguous"
            parameters[name] = next(begins) if is_array else int.from_bytes(argument.tobytes(), "little")
        for label, array in zip(labels, arrays, strict=True):
            memory.part(label)[:] = array.reshape(-1).view(np.uint8)
        shared = {name: dynamic_shared if size is None else size for name, size in self.shared.items()}
        launch = Launch(self, three(grid), three(block), parameters, memory, shared)
        with np.errstate(all="ignore"):
            launch.run()
        for label, array in zip(labels, arrays, strict=True):
            array.reshape(-1).view(np.uint8)[:] = memory.part(label)


def three(sizes: int | tuple[int, ...]) -> tuple[int, int, int]:
    x, y, z = (*np.atleast_1d(sizes).tolist(), 1, 1)[:3]
    return x, y, z


# ---------------------------------------------------------------------------------------- memory


class Refused(Exception):
    """An access that is a fault.

    Attributes:
        number: Of the first access of those asked for that is one.
        reason: What is wrong.
    """

    def __init__(self, number: int, reason: str):
        super().__init__(reason)
        self.number, self.reason = number, reason

    @classmethod
    def if_any(cls, bad: np.ndarray, reason: str | Callable[[int], str]) -> None:
        """Raise for the first of [accesses] or [accesses, bytes] that is bad."""
        if bad.any():
            number = int(np.argmax(bad.reshape(len(bad), -1).any(1)))
            raise cls(number, reason if isinstance(reason, str) else reason(number))


NOBODY, SEVERAL = -1, -2


class Memory:
    """Arrays with red zones around them, of one copy or more, and who has read and written each byte.

    Attributes:
        begins: Addresses of the arrays.
    """

    def __init__(self, sizes: dict[str, int], copies: int = 1):
        self._labels, begins, end = list(sizes), [], 0
        for size in sizes.values():
            begins.append(-(-end // RED_ZONE) * RED_ZONE + RED_ZONE)
            end = begins[-1] + size
        self._size = end + RED_ZONE
        self.begins = np.array(begins, np.int64)
        self._ends = self.begins + np.array(list(sizes.values()), np.int64)
        # what nothing was stored in is NaN
        self._bytes = np.full(copies * self._size, 0xFF, np.uint8)
        self._readers = np.full(copies * self._size, NOBODY, np.int32)
        self._writers = self._readers.copy()

    def part(self, label: str) -> np.ndarray:
        """Bytes of an array, of the first copy."""
        number = self._labels.index(label)
        return self._bytes[self.begins[number] : self._ends[number]]

    def load(self, copies: np.ndarray, addresses: np.ndarray, size: int, who: np.ndarray) -> np.ndarray:
        """`size` bytes of each address as uint8 [accesses, size].

        Args:
            copies: [accesses], the copy that each reads.
            addresses: [accesses], as signed integers.
            size: Bytes of each.
            who: [accesses], what is not to read what others write; `SEVERAL` if it is not to read what it writes
                itself, either.
        """
        index, who = self._index(copies, addresses, size), who[:, None]
        writers = self._writers[index]
        Refused.if_any((writers != NOBODY) & (writers != who), "a race: it reads what was written meanwhile")
        self._mark(self._readers, index, who)
        return self._bytes[index]

    def store(self, copies: np.ndarray, addresses: np.ndarray, data: np.ndarray, who: np.ndarray) -> None:
        """Store uint8 [accesses, size]; see `load`."""
        index, who = self._index(copies, addresses, data.shape[1]), who[:, None]
        readers, writers = self._readers[index], self._writers[index]
        Refused.if_any((readers != NOBODY) & (readers != who), "a race: it writes what was read meanwhile")
        others = (writers != NOBODY) & (writers != who)
        Refused.if_any(others & (self._bytes[index] != data), "a race: it changes what was written meanwhile")
        self._bytes[index] = data
        Refused.if_any(self._bytes[index] != data, "a race: threads write different values to one place")
        self._mark(self._writers, index, who)

    def forget(self) -> None:
        """Who has read and written."""
        self._readers[:] = self._writers[:] = NOBODY

    def _index(self, copies: np.ndarray, addresses: np.ndarray, size: int) -> np.ndarray:
        """Of bytes [accesses, size]."""
        numbers = np.searchsorted(self.begins, addresses, "right") - 1
        outside = (numbers < 0) | (addresses + size > self._ends[numbers])

        def reason(access: int) -> str:
            number, address = int(numbers[access]), int(addresses[access])
            if not outside[access]:
                return f"misaligned: {size} bytes at address {address}"
            if number < 0:
                return f"{size} bytes at address {address}, outside of every array"
            at, length = address - self.begins[number], self._ends[number] - self.begins[number]
            return f"{size} bytes at byte {at} of {self._labels[number]}, outside of its {length}"

        Refused.if_any(outside | (addresses % size != 0), reason)
        return (copies * self._size + addresses)[:, None] + np.arange(size)

    @staticmethod
    def _mark(marks: np.ndarray, index: np.ndarray, who: np.ndarray) -> None:
        before = marks[index]
        marks[index] = who
        marks[index[(marks[index] != who) | (before != NOBODY) & (before != who)]] = SEVERAL


# ---------------------------------------------------------------------------------------- running


class Launch:
    """All threads of a grid, one after another in its blocks, and these along x, y and z."""

    def __init__(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        parameters: dict[str, int],
        memory: Memory,
        shared: dict[str, int],
    ):
        self._kernel, self._grid, self._parameters = kernel, grid, parameters
        self._global, self._shared = memory, Memory(shared, int(np.prod(grid)))
        self._symbols = dict(zip(shared, self._shared.begins.tolist(), strict=True))
        self._per_block = int(np.prod(block))
        n = int(np.prod(grid)) * self._per_block
        self._thread, (self._block, in_block) = np.arange(n), np.divmod(np.arange(n), self._per_block)
        self._lane, self._warp = in_block % WARP, self._block * -(-self._per_block // WARP) + in_block // WARP
        special = {"%laneid": self._lane, "%warpid": in_block // WARP}
        for i, axis in enumerate("xyz"):
            special |= {
                f"%tid.{axis}": in_block // int(np.prod(block[:i])) % block[i],
                f"%ctaid.{axis}": self._block // int(np.prod(grid[:i])) % grid[i],
                f"%ntid.{axis}": np.full(1, block[i]),
                f"%nctaid.{axis}": np.full(1, grid[i]),
            }
        self._registers = {name: value.astype(np.uint64) for name, value in special.items()}
        self._next = np.zeros(n, np.int64)  # the instruction that each thread does next
        self._at_barrier, self._at_shuffle = np.zeros(n, bool), np.zeros(n, bool)

    # ------------------------------------------------------------------ which threads go on

    def run(self) -> None:
        """Until all threads have ended."""
        code, stretches = self._kernel.code, self._kernel.stretches
        while True:
            ready = self._running & ~self._at_barrier & ~self._at_shuffle
            if not ready.any():
                if not self._leave_barriers():
                    return
                continue
            begin = int(self._next[ready].min())
            active = ready & (self._next == begin)
            if code[begin].name == "shfl":
                active = self._whole_warps(begin)
                if not active.any():
                    continue
            self._next[active] = stretches[begin]
            for instruction in code[begin : stretches[begin]]:
                self._step(instruction, active)

    @property
    def _running(self) -> np.ndarray:
        return self._next < len(self._kernel.code)

    def _whole_warps(self, at: int) -> np.ndarray:
        """Threads that have come to a shuffle with all of their warp; the others are held there."""
        running = self._running
        came = running & ~self._at_barrier & (self._next == at)
        missing = np.zeros(self._warp[-1] + 1, bool)
        missing[self._warp[running & ~came]] = True
        whole = came & ~missing[self._warp]
        self._at_shuffle = (self._at_shuffle | came) & ~whole
        return whole

    def _leave_barriers(self) -> bool:
        """Let all blocks go on, or False if they have ended, when nothing else can."""
        running, code = self._running, self._kernel.code
        if self._at_shuffle.any():
            thread = int(np.argmax(self._at_shuffle))
            of_warp = running & (self._warp == self._warp[thread]) & (self._next != self._next[thread])
            raise self._fault(
                code[self._next[thread]], thread, f"waits for ever: lanes {self._lane[of_warp].tolist()} are elsewhere"
            )
        place = np.where(running, self._next, -1).reshape(-1, self._per_block).max(1)
        elsewhere = running & (self._next != place[self._block])
        if elsewhere.any():
            thread = int(np.argmax(elsewhere))
            raise self._fault(code[self._next[thread] - 1], thread, "others of the block wait at another barrier")
        self._at_barrier[:] = False
        self._shared.forget()
        return bool(running.any())

    def _step(self, instruction: Instruction, active: np.ndarray) -> None:
        step = STEPS.get(instruction.name)
        if step is None or not instruction.modifiers <= MODIFIERS[instruction.name]:
            raise NotImplementedError(instruction.text)
        if instruction.predicate is not None:
            if instruction.name in ("bar", "shfl"):
                raise NotImplementedError(instruction.text)
            active = active & (values_of(self._bits(instruction.predicate), "pred") ^ instruction.negated)
            if not active.any():
                return
        try:
            step(self, instruction, active)
        except Refused as refused:
            raise self._fault(instruction, self._thread[active][refused.number], refused.reason) from None
        except (IndexError, KeyError, ValueError) as error:
            raise NotImplementedError(instruction.text) from error

    def _fault(self, instruction: Instruction, thread: int, reason: str) -> Fault:
        block = tuple(map(int, np.unravel_index(self._block[thread], self._grid, "F")))
        thread %= self._per_block
        return Fault(f"{self._kernel.name}: block {block}, thread {thread}: {instruction.text}: {reason}")

    # ------------------------------------------------------------------ registers

    def _bits(self, operand: str) -> np.ndarray:
        """uint64 [threads], or [1] where all have the same."""
        if operand in self._registers:
            return self._registers[operand]
        if operand.startswith("%"):
            return np.full(1, UNSET)
        if operand in self._symbols:
            number = self._symbols[operand]
        elif re.fullmatch(r"0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}", operand):
            number = int(operand[2:], 16)
        else:
            number = int(operand, 0)
        return np.full(1, number % 2**64, np.uint64)

    def _values(self, operand: str, kind: str) -> np.ndarray:
        return values_of(self._bits(operand), kind)

    def _set(self, register: str, bits: np.ndarray, active: np.ndarray) -> None:
        if register != "_":
            self._registers[register] = np.where(active, bits, self._bits(register))

    @staticmethod
    def _listed(operand: str) -> list[str]:
        """Registers of {a, b}, or the only one."""
        return [each.strip() for each in operand.strip("{}").split(",")]

    # ------------------------------------------------------------------ instructions

    def _branch(self, instruction: Instruction, active: np.ndarray) -> None:
        self._next[active] = self._kernel.labels[instruction.operands[0]]

    def _return(self, instruction: Instruction, active: np.ndarray) -> None:
        self._next[active] = len(self._kernel.code)

    def _barrier(self, instruction: Instruction, active: np.ndarray) -> None:
        if instruction.operands != ("0",):
            raise NotImplementedError(instruction.text)
        self._at_barrier |= active

    def _access(self, instruction: Instruction, operand: str, active: np.ndarray) -> tuple[Memory, tuple]:
        """The memory, and the copies and addresses that the active threads ask for."""
        base, _, offset = operand.strip("[]").partition("+")
        address = self._bits(base) + np.uint64(int(offset or "0", 0) % 2**64)
        address = np.broadcast_to(address, active.shape)[active].view(np.int64)
        if "shared" in instruction.modifiers:
            return self._shared, (self._block[active], address)
        if "global" not in instruction.modifiers:
            raise NotImplementedError(instruction.text)
        return self._global, (np.zeros_like(address), address)

    def _who(self, instruction: Instruction, active: np.ndarray) -> np.ndarray:
        """Threads go on together in shared memory, blocks in global memory."""
        if "nc" in instruction.modifiers:
            return np.full(np.count_nonzero(active), SEVERAL)
        return (self._thread if "shared" in instruction.modifiers else self._block)[active]

    def _load(self, instruction: Instruction, active: np.ndarray) -> None:
        (kind,), (registers, place) = instruction.kinds, instruction.operands
        registers, size = self._listed(registers), size_of(kind)
        if instruction.modifiers & {"param", "param::entry"}:
            words = np.full((len(active), 1), self._parameters[place.strip("[]")], np.uint64)
        else:
            memory, places = self._access(instruction, place, active)
            data = memory.load(*places, size * len(registers), self._who(instruction, active))
            words = np.zeros((len(active), len(registers)), np.uint64)
            words[active] = data.view(f"uint{8 * size}")
        for register, word in zip(registers, words.T, strict=True):
            if kind.startswith("s"):  # the register may be wider
                word = bits_of(values_of(word, kind), "s64")
            self._set(register, word, active)

    def _store(self, instruction: Instruction, active: np.ndarray) -> None:
        (kind,), (place, registers) = instruction.kinds, instruction.operands
        memory, places = self._access(instruction, place, active)
        words = [np.broadcast_to(self._bits(each), active.shape)[active] for each in self._listed(registers)]
        data = np.stack(words, 1).astype(f"uint{8 * size_of(kind)}").view(np.uint8)
        memory.store(*places, data, self._who(instruction, active))

    def _move(self, instruction: Instruction, active: np.ndarray) -> None:
        (kind,), (to, source) = instruction.kinds, instruction.operands
        parts = self._listed(to if to.startswith("{") else source)
        each = np.uint64(8 * size_of(kind) // len(parts))
        low = UNSET >> np.uint64(64) - each
        if to.startswith("{"):
            for i, part in enumerate(parts):
                self._set(part, self._bits(source) >> np.uint64(i) * each & low, active)
        elif source.startswith("{"):
            words = [(self._bits(part) & low) << np.uint64(i) * each for i, part in enumerate(parts)]
            self._set(to, np.bitwise_or.reduce(np.broadcast_arrays(*words)), active)
        else:
            self._set(to, bits_of(self._values(source, kind), kind), active)

    def _to_global(self, instruction: Instruction, active: np.ndarray) -> None:
        if not {"to", "global"} <= instruction.modifiers:
            raise NotImplementedError(instruction.text)
        self._set(instruction.operands[0], self._bits(instruction.operands[1]), active)

    def _convert(self, instruction: Instruction, active: np.ndarray) -> None:
        to, source = instruction.kinds
        register, *operands = instruction.operands
        values = [self._values(operand, source) for operand in operands]
        if to in HALVES:
            upper, lower = np.broadcast_arrays(*values)
            self._set(register, bits_of(np.stack([lower, upper]), to), active)
            return
        (value,) = values
        for name in instruction.modifiers & TO_INTEGERS.keys():
            value = TO_INTEGERS[name](value)
        if is_float(source) and not is_float(to):
            limits = np.iinfo(DTYPES[to])
            wide = value.astype(np.float64)
            inside = (wide >= limits.min) & (wide <= limits.max)
            beyond = np.where(wide > 0, limits.max, np.where(wide < 0, limits.min, 0)).astype(DTYPES[to])
            value = np.where(inside, wide.astype(DTYPES[to]), beyond)
        self._finish(instruction, value, to, active)

    def _compare(self, instruction: Instruction, active: np.ndarray) -> None:
        (kind,), (register, a, b, *other) = instruction.kinds, instruction.operands
        a, b = self._values(a, kind), self._values(b, kind)
        (name,) = instruction.modifiers & {*COMPARISONS, *UNORDERED, *ORDER}
        unordered = np.isnan(a) | np.isnan(b) if is_float(kind) else np.False_
        if name in ORDER:
            holds = unordered if name == "nan" else ~unordered
        else:
            holds = COMPARISONS[UNORDERED.get(name, name)](a, b)
            holds = holds | unordered if name in UNORDERED else holds & ~unordered
        if other:
            too = self._values(other[0].lstrip("!"), "pred") ^ other[0].startswith("!")
            holds = holds & too if "and" in instruction.modifiers else holds | too
        self._set(register, bits_of(holds, "pred"), active)

    def _select(self, instruction: Instruction, active: np.ndarray) -> None:
        register, a, b, predicate = instruction.operands
        self._set(register, np.where(self._values(predicate, "pred"), self._bits(a), self._bits(b)), active)

    def _shuffle(self, instruction: Instruction, active: np.ndarray) -> None:
        to, a, b, bound, members = instruction.operands
        (way,) = instruction.modifiers - {"sync"}
        if int(members, 0) % 2**32 != 2**32 - 1 or int(bound, 0) != (0 if way == "up" else WARP - 1):
            raise NotImplementedError(instruction.text)  # of some lanes, or of parts of a warp
        lane = SHUFFLES[way](self._lane, self._values(b, "u32").astype(np.int64))
        inside = (lane >= 0) & (lane < WARP)
        lane = np.where(inside, lane, self._lane)
        source = self._thread - self._lane + lane
        last = (self._block + 1) * self._per_block - 1
        ended = (source > last) | ~active[np.minimum(source, last)]
        Refused.if_any(ended[active], "it reads a lane that has ended")
        register, _, predicate = to.partition("|")
        self._set(register, np.broadcast_to(self._bits(a), active.shape)[np.minimum(source, last)], active)
        self._set(predicate or "_", bits_of(inside, "pred"), active)

    def _operate(self, instruction: Instruction, active: np.ndarray) -> None:
        (kind,), (_, *operands), name = instruction.kinds, instruction.operands, instruction.name
        kinds = [kind] * len(operands)
        if name in ("shl", "shr"):
            kinds[1] = "u32"
        if name in ("mad", "mul") and not is_float(kind) and not instruction.modifiers & {"lo", "wide"}:
            raise NotImplementedError(instruction.text)
        values = [self._values(operand, each) for operand, each in zip(operands, kinds, strict=True)]
        if "wide" in instruction.modifiers:
            kind = f"{kind[0]}{16 * size_of(kind)}"
            values = [each.astype(DTYPES[kind]) for each in values[:2]]
            values += [self._values(operand, kind) for operand in operands[2:]]
        if "ftz" in instruction.modifiers:
            values = [flushed(each) for each in values]
        self._finish(instruction, OPERATIONS[name](*values), kind, active)

    def _finish(self, instruction: Instruction, values: np.ndarray, kind: str, active: np.ndarray) -> None:
        if "ftz" in instruction.modifiers and kind == "f32":
            values = flushed(values)
        self._set(instruction.operands[0], bits_of(values, kind), active)


STEPS: dict[str, Callable[[Launch, Instruction, np.ndarray], None]] = {
    **dict.fromkeys(OPERATIONS, Launch._operate),
    "bar": Launch._barrier,
    "bra": Launch._branch,
    "cvt": Launch._convert,
    "cvta": Launch._to_global,
    "ld": Launch._load,
    "mov": Launch._move,
    "ret": Launch._return,
    "selp": Launch._select,
    "setp": Launch._compare,
    "shfl": Launch._shuffle,
    "st": Launch._store,
}
