"""The interpreter of PTX: small kernels that are right, and mistakes of every kind."""

import numpy as np
import pytest
import torch
from ptx import Fault, Kernel

HEAD = """
.version 8.5
.target sm_90a
.address_size 64
.visible .entry tried(
    .param .u64 .ptr .align 1 to,
    .param .u64 .ptr .align 1 source,
    .param .b32 n
)
{
    .reg .pred %p<9>;
    .shared .align 4 .b8 first[512];
    .shared .align 4 .b8 second[512];
    ld.param.b64 %rd1, [to];
    cvta.to.global.u64 %rd1, %rd1;
    ld.param.b64 %rd2, [source];
    cvta.to.global.u64 %rd2, %rd2;
    ld.param.b32 %r1, [n];
    mov.u32 %r2, %tid.x;        // thread
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mad.lo.s32 %r5, %r3, %r4, %r2;  // thread of the grid
    mul.wide.u32 %rd3, %r5, 4;
    add.s64 %rd4, %rd1, %rd3;   // this thread's place in `to`
    add.s64 %rd5, %rd2, %rd3;   // and in `source`
    shl.b32 %r6, %r2, 2;
    mov.b32 %r7, first;
    add.s32 %r8, %r7, %r6;      // and in the first shared variable
"""


def run(body, to, source=None, n=0, grid=1, block=None):
    source = np.zeros(1, np.int32) if source is None else source
    Kernel(f"{HEAD}{body}\n    ret;\n}}\n").run(grid, block or to.size, [to, source, np.int32(n)])
    return to


def zeros(n=64):
    return np.zeros(n, np.int32)


def numbers(n=64):
    return np.arange(n, dtype=np.int32)


# ---------------------------------------------------------------------------------------- what is right


def test_threads_that_part_meet_again():
    loop = """
    mov.b32 %r10, 0;
    $again:
    add.s32 %r10, %r10, %r2;
    add.s32 %r2, %r2, -1;
    setp.gt.s32 %p1, %r2, 0;
    @%p1 bra $again;
    st.global.b32 [%rd4], %r10;
    """
    assert run(loop, zeros()).tolist() == [n * (n + 1) // 2 for n in range(64)]


def test_a_barrier_holds_a_block_until_all_have_come():
    # the first warp is late: it goes round 50 times; then each thread reads what the last but so many wrote
    reverse = """
    setp.gt.u32 %p1, %r2, 31;
    @%p1 bra $write;
    mov.b32 %r10, 50;
    $wait:
    add.s32 %r10, %r10, -1;
    setp.ne.s32 %p2, %r10, 0;
    @%p2 bra $wait;
    $write:
    st.shared.b32 [%r8], %r5;
    bar.sync 0;
    sub.s32 %r11, %r4, %r2;
    shl.b32 %r11, %r11, 2;
    add.s32 %r11, %r7, %r11;
    ld.shared.b32 %r12, [%r11+-4];
    st.global.b32 [%rd4], %r12;
    """
    assert run(reverse, zeros(128), grid=2, block=64).tolist() == [*range(63, -1, -1), *range(127, 63, -1)]


@pytest.mark.parametrize(
    ("way", "by", "bound", "source"),
    [
        ("bfly", 5, 31, lambda lane: lane ^ 5),
        ("down", 3, 31, lambda lane: lane + 3 if lane + 3 < 32 else lane),
        ("up", 3, 0, lambda lane: lane - 3 if lane >= 3 else lane),
        ("idx", 7, 31, lambda lane: 7),
    ],
)
def test_shuffles_stay_in_their_warp(way, by, bound, source):
    shuffle = f"shfl.sync.{way}.b32 %r10|%p1, %r2, {by}, {bound}, -1;\n    st.global.b32 [%rd4], %r10;"
    assert run(shuffle, zeros()).tolist() == [lane // 32 * 32 + source(lane % 32) for lane in range(64)]


@pytest.mark.parametrize("lanes", [2, 4])
def test_vectors_are_loaded_and_stored(lanes):
    registers = ", ".join(f"%r{20 + i}" for i in range(lanes))
    copy = f"""
    mul.wide.u32 %rd3, %r5, {4 * lanes};
    add.s64 %rd4, %rd1, %rd3;
    add.s64 %rd5, %rd2, %rd3;
    ld.global.nc.v{lanes}.b32 {{{registers}}}, [%rd5];
    st.global.v{lanes}.b32 [%rd4], {{{registers}}};
    """
    assert np.array_equal(run(copy, zeros(32 * lanes), numbers(32 * lanes), block=32), numbers(32 * lanes))


def test_blocks_lie_along_three_axes():
    number = """
    mov.u32 %r10, %ctaid.y;
    mov.u32 %r11, %ctaid.z;
    mad.lo.s32 %r12, %r11, 3, %r10;
    mad.lo.s32 %r12, %r12, 2, %r3;
    mul.wide.u32 %rd3, %r12, 4;
    add.s64 %rd4, %rd1, %rd3;
    st.global.b32 [%rd4], %r12;
    """
    assert np.array_equal(run(number, zeros(24), grid=(2, 3, 4), block=1), numbers(24))


@pytest.mark.parametrize("kind", ["s16", "s32", "s64", "u16", "u32", "u64"])
def test_integers_wrap_divide_towards_zero_and_compare_by_sign(kind):
    register = {"16": "%rs", "32": "%r", "64": "%rd"}[kind[1:]]
    code = f"""
    mov.{kind} {register}20, -7;
    add.{kind} {register}20, {register}20, {register}20;
    div.{kind} {register}21, {register}20, 4;
    rem.{kind} {register}22, {register}20, 4;
    shr.{kind} {register}23, {register}20, 2;
    setp.lt.{kind} %p1, {register}20, 3;
    selp.b32 %r30, 1, 0, %p1;
    cvt.s32.{kind} %r21, {register}21;
    cvt.s32.{kind} %r22, {register}22;
    cvt.s32.{kind} %r23, {register}23;
    st.global.b32 [%rd1], %r21;
    st.global.b32 [%rd1+4], %r22;
    st.global.b32 [%rd1+8], %r23;
    st.global.b32 [%rd1+12], %r30;
    """
    big = 2 ** int(kind[1:]) - 14
    expected = [-3, -2, -4, 1] if kind[0] == "s" else [big // 4, big % 4, big // 4, 0]
    assert np.array_equal(run(code, zeros(4), block=1), np.array(expected).astype(np.int32))


def test_bfloat16_and_float16_are_rounded_to_the_nearest_once():
    code = """
    ld.global.nc.f32 %r10, [%rd5];
    cvt.rn.bf16.f32 %rs1, %r10;
    cvt.rn.bf16x2.f32 %r11, %r10, 0f3F800000;
    mov.b32 {%rs3, %rs4}, %r11;
    cvt.rn.f16.f32 %rs2, %r10;
    setp.ne.b16 %p1, %rs1, %rs4;
    @%p1 mov.b16 %rs1, 0;
    mov.b32 %r12, {%rs1, %rs2};
    st.global.b32 [%rd4], %r12;
    """
    x = np.random.default_rng(0).standard_normal(4096, np.float32)
    ties = (np.arange(4096, dtype=np.uint32) << 15).view(np.float32)
    for values in (x, np.concatenate([ties[:2040], [np.inf, -np.inf]]).astype(np.float32)):
        halves = run(code, zeros(values.size), values.view(np.int32)).view(np.uint16).reshape(-1, 2)
        assert np.array_equal(halves[:, 0], torch.from_numpy(values).bfloat16().view(torch.uint16).numpy())
        assert np.array_equal(halves[:, 1], values.astype(np.float16).view(np.uint16))


def test_packed_bfloat16_are_multiplied_and_added_by_halves():
    code = """
    ld.global.nc.b32 %r10, [%rd5];
    mov.b32 %r11, 0x40003F80;
    fma.rn.bf16x2 %r12, %r10, %r11, %r11;
    st.global.b32 [%rd4], %r12;
    """
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((64, 2), np.float32)).bfloat16()
    output = run(code, zeros(), x.view(torch.int32).numpy().reshape(-1))
    expected = (x.double() * torch.tensor([1, 2]) + torch.tensor([1, 2])).bfloat16()
    assert np.array_equal(output, expected.view(torch.int32).numpy().reshape(-1))


# ---------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("st.global.b32 [%rd4+4], %r2;", "thread 63: st.global.b32.* 4 bytes at byte 256 of argument 0, outside"),
        ("st.global.b32 [%rd4+-4], %r2;", "thread 0: .*outside"),
        ("ld.global.b32 %r9, [%rd5+8];", r"thread 62: ld.global.b32.* of argument 1, outside of its 256"),
        ("ld.global.b64 %rd9, [%rd5];", "thread 1: .*misaligned: 8 bytes"),
        ("ld.global.nc.v4.b32 {%r10, %r11, %r12, %r13}, [%rd2+8];", "thread 0: ld.global.nc.v4.*misaligned: 16 bytes"),
        ("st.global.v2.b32 [%rd1+4], {%r2, %r2};", "thread 0: .*misaligned: 8 bytes"),
        ("ld.global.b32 %r9, [%rd77];", "thread 0: .*outside of every array"),
        # past the first shared variable, where the second follows or not
        ("st.shared.b32 [%r8+260], %r2;", "thread 63: st.shared.b32.* at byte 512 of first, outside"),
        ("ld.shared.b32 %r9, [%r8+2];", "thread 0: .*misaligned"),
    ],
)
def test_a_place_outside_or_misaligned(body, told):
    with pytest.raises(Fault, match=rf"tried: block \(0, 0, 0\), {told}"):
        run(body, zeros(), numbers())


def test_the_block_is_named():
    with pytest.raises(Fault, match=r"block \(2, 0, 0\), thread 31"):
        run("st.global.b32 [%rd4+4], %r2;", zeros(96), grid=3, block=32)


def test_nothing_is_changed_by_a_launch_that_fails():
    to = zeros()
    with pytest.raises(Fault):
        run("st.global.b32 [%rd4], 1;\n    st.global.b32 [%rd4+4], 1;", to)
    assert not to.any()


def test_a_shuffle_in_a_branch_waits_for_ever():
    branch = """
    setp.lt.u32 %p1, %r2, 40;
    @%p1 bra $out;
    shfl.sync.bfly.b32 %r10, %r2, 1, 31, -1;
    bar.sync 0;
    $out:
    bar.sync 0;
    """
    with pytest.raises(Fault, match=r"thread 40: shfl.sync.bfly.*waits for ever: lanes \[0, 1, 2, 3, 4, 5, 6, 7\]"):
        run(branch, zeros())


def test_a_shuffle_in_a_branch_of_whole_warps_does_not():
    branch = """
    setp.lt.u32 %p1, %r2, 32;
    @%p1 bra $out;
    shfl.sync.bfly.b32 %r2, %r2, 1, 31, -1;
    $out:
    st.global.b32 [%rd4], %r2;
    """
    assert run(branch, zeros()).tolist() == [*range(32), *(n ^ 1 for n in range(32, 64))]


def test_a_shuffle_reads_a_lane_that_has_ended():
    ended = "setp.eq.u32 %p1, %r2, 5;\n    @%p1 ret;\n    shfl.sync.bfly.b32 %r10, %r2, 1, 31, -1;"
    with pytest.raises(Fault, match="thread 4: shfl.* reads a lane that has ended"):
        run(ended, zeros())


def test_a_block_waits_at_two_barriers():
    two = """
    setp.lt.u32 %p1, %r2, 32;
    @%p1 bra $other;
    bar.sync 0;
    ret;
    $other:
    bar.sync 0;
    """
    with pytest.raises(Fault, match="others of the block wait at another barrier"):
        run(two, zeros())


NEIGHBOUR = "xor.b32 %r9, %r8, 128;"  # the same lane of the other warp
RACES = {
    "read what another wrote": f"st.shared.b32 [%r8], %r2; {NEIGHBOUR} ld.shared.b32 %r10, [%r9];",
    "write what another read": f"ld.shared.b32 %r10, [%r8]; {NEIGHBOUR} st.shared.b32 [%r9], %r2;",
    "write where another wrote": f"st.shared.b32 [%r8], %r2; {NEIGHBOUR} st.shared.b32 [%r9], %r2;",
    "write to one shared place": "st.shared.b32 [%r7], %r2;",
    "write to one global place": "st.global.b32 [%rd1], %r2;",
    "write to one place from two blocks": "st.global.b32 [%rd1], %r3;",
    "read what another block wrote": "st.global.b32 [%rd4], 1; ld.global.b32 %r10, [%rd1];",
    "read as constant what was written": "st.global.b32 [%rd4], 1; ld.global.nc.b32 %r10, [%rd4];",
    "write what was read as constant": "ld.global.nc.b32 %r10, [%rd4]; st.global.b32 [%rd4], 1;",
}


@pytest.mark.parametrize("race", RACES)
def test_a_race(race):
    with pytest.raises(Fault, match="a race"):
        run(RACES[race], zeros(128), grid=2, block=64)


@pytest.mark.parametrize("race", [name for name, code in RACES.items() if NEIGHBOUR in code])
def test_a_race_is_none_with_a_barrier(race):
    run(RACES[race].replace(NEIGHBOUR, f"bar.sync 0; {NEIGHBOUR}"), zeros(128), grid=2, block=64)


@pytest.mark.parametrize(
    "instruction",
    [
        "atom.global.add.u32 %r9, [%rd1], 1",
        "add.rz.f32 %r9, %r9, %r9",
        "ld.local.b32 %r9, [%r8]",
        "ld.global.volatile.b32 %r9, [%rd1]",
        "mul.hi.u32 %r9, %r9, %r9",
        "shfl.sync.bfly.b32 %r9, %r9, 1, 7199, -1",
        "bar.sync 1",
        "mov.b32 %r9, elsewhere",
        "call.uni (%r9), other, (%r8)",
    ],
)
def test_what_is_not_known_is_named(instruction):
    with pytest.raises(NotImplementedError) as error:
        run(f"{instruction};", zeros())
    assert str(error.value) == instruction
