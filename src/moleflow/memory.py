"""How this process deals with memory that it frees and needs again at once."""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory instead of handing it back to the kernel.

    A training step makes and drops some hundred tensors of tens of megabytes. By default glibc maps each one anew, so
    every page is fetched and cleared by the kernel again; that costs more than what is computed in it. Peak memory
    stays what it is, but the process holds it until it ends.

    Returns:
        Whether the C library could be told; without glibc nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
