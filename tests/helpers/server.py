"""Starts ``python train.py`` quickly: as forks of a process that has the libraries loaded already.

Speaks JSON lines on its standard streams: ``{"run": {...}}`` answers with a process id, ``{"wait": id, "seconds": s}``
with an exit status (negative: the signal; null: still running). A child runs and ends as a fresh interpreter does. It
has random global generators, so a run that leans on them cannot repeat itself.
"""

import atexit
import gc
import json
import os
import random
import runpy
import signal
import sys
import time
from importlib import import_module
from pathlib import Path

TRAIN = Path(__file__).parents[2] / "train.py"
LOADED = ("train", "moleflow.training.objective", "moleflow.training.run", "timm.optim")

exit_status = 0


@atexit.register  # the first of all, so that it is called as the last one
def _end() -> None:
    """End without freeing all objects one by one, which takes a fork seconds."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_status)


def _become(arguments: list[str], cwd: str, log: str, errors: str, setup: str) -> None:
    """Make this process one that was just started."""
    import numpy as np
    import torch

    atexit._clear()  # the temporary folders that libraries made are the server's
    atexit.register(_end)
    os.setsid()
    os.chdir(cwd)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the server itself may run under nohup
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    writing = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, log, writing), (2, errors, writing)):
        file = os.open(path, flags)
        os.dup2(file, number)
        os.close(file)
    torch.set_num_threads(1)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(int.from_bytes(os.urandom(4), "little"))
    sys.argv = [str(TRAIN), *arguments]
    exec(setup, {})


def _wait(pid: int, seconds: float) -> int | None:
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.005)


def serve() -> None:
    """Serve until standard input ends; return in every child, which is then a process that was just started."""
    for module in LOADED:
        import_module(module)
    gc.freeze()  # children need not look through the libraries' objects again, which would copy their memory, too
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "run" in request:
            pid = os.fork()
            if not pid:
                return _become(**request["run"])
            print(json.dumps(pid), flush=True)
        else:
            print(json.dumps(_wait(request["wait"], request["seconds"])), flush=True)
    sys.exit()


if __name__ == "__main__":
    serve()
    try:
        runpy.run_path(str(TRAIN), run_name="__main__")
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) else 1
        exit_status = code if isinstance(code, int) else int(code is not None)
        raise
