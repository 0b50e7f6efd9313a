"""Computation of independent items by several threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_AHEAD = 2  # items per thread that are computed or wait before the first result is returned


def map_on_threads(
    function: Callable[[ItemT], ResultT], items: Iterable[ItemT], device: torch.device
) -> Iterator[ResultT]:
    """Yield ``function(item)`` of each item in order; the calling thread prepares the next items in the meantime.

    On a CPU there are as many threads as torch uses, and each computes its item without further threads. A forward pass
    of one image has too little work per layer to divide it, and this way its last bits do not depend on the number of
    threads. With one thread of torch everything is computed in the calling thread. Any other device gets one thread.

    Args:
        function: Called by several threads at a time.
        items: The items; a few are taken ahead of the results.
        device: Device on which the function computes.
    """
    torch_threads = torch.get_num_threads()
    threads = torch_threads if device.type == "cpu" else 1
    if device.type == "cpu" and threads == 1:
        yield from map(function, items)
        return
    pending: deque[Future[ResultT]] = deque()
    torch.set_num_threads(1)  # in the calling thread, whose operations are as small as those of one image
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > _AHEAD * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(torch_threads)
