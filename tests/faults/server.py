"""Starts training processes quickly: forks them from a process that has the libraries loaded already.

Speaks JSON lines on its standard streams: ``{"run": {...}}`` answers with a process id, ``{"wait": id, "seconds": s}``
with an exit status (negative: the signal; null: still running). Every child has random global generators, so a run
that leans on them cannot repeat itself.
"""

import json
import os
import random
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WRITING = os.O_WRONLY | os.O_RDWR


class _DieAt:
    """Kills the process at its n-th operation on files below a folder: before an open to write, a rename, a removal."""

    def __init__(self, operation: int, folder: str) -> None:
        self.left = operation
        self.folder = folder

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            touches = isinstance(arguments[2], int) and bool(arguments[2] & WRITING)
        else:
            touches = event in ("os.rename", "os.remove")
        if touches and str(arguments[0]).startswith(self.folder):
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)


def _child(arguments: list[str], log: str, die_at: int, folder: str, setup: str) -> int:
    import numpy as np
    import torch

    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the server itself may run under nohup
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    for number, source in ((0, null), (1, stream), (2, stream)):
        os.dup2(source, number)
    torch.set_num_threads(1)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(int.from_bytes(os.urandom(4), "little"))
    sys.argv = [str(ROOT / "train.py"), *arguments]
    exec(setup, {})
    if die_at:
        sys.addaudithook(_DieAt(die_at, folder))
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 70  # a traceback reached the user
    return 0


def _wait(pid: int, seconds: float) -> int | None:
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.005)


def main() -> None:
    """Serve until standard input ends."""
    import moleflow.training.run
    import moleflow.training.sequence  # noqa: F401

    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "run" in request:
            pid = os.fork()
            if not pid:
                status = 70
                try:
                    status = _child(**request["run"])
                    sys.stdout.flush()
                    sys.stderr.flush()
                finally:
                    os._exit(status)
            print(json.dumps(pid), flush=True)
        else:
            print(json.dumps(_wait(request["wait"], request["seconds"])), flush=True)


if __name__ == "__main__":
    main()
