"""Settings of glibc's malloc that return freed memory to the system instead of keeping it in the process."""

import ctypes

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
LARGE = 1 << 20


def return_large_blocks() -> None:
    """Let glibc give every block of 1 MiB or more a mapping of its own, which ends when the block is freed.

    By itself glibc raises that size to 32 MiB as soon as such a block is freed once. From then on the weights and
    values of a large model lie in one heap, and what is freed between others stays with the process: twice the
    memory of large-v3. Elsewhere than on glibc this does nothing.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)


def return_free_memory() -> None:
    """Give back what glibc keeps of freed blocks between others, after something large was read and dropped."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
