"""Fork server for commands of Python: their processes start without the seconds that the imports take.

Requests and replies are JSON lines on the standard streams: the reply to ``{"run": {...}}`` is a process id, the reply
to ``{"wait": id, "seconds": s}`` an exit status (negative: the signal; null: still running). A child behaves like a
fresh interpreter. Its global random generators have random seeds, so that a run that uses them is not reproducible.
"""

import atexit
import gc
import json
import os
import random
import runpy
import select
import signal
import sys
from importlib import import_module

PRELOADED = ("moleflow.cli.train", "moleflow.experiment.execution", "timm.optim")

exit_status = 0


@atexit.register  # registered first, so called last
def _exit() -> None:
    """Exit without freeing all objects one by one, which takes seconds in a fork."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_status)


def _reset_process(program: str, arguments: list[str], cwd: str, log: str, errors: str, setup: str) -> None:
    """Give the forked process the state of a fresh one."""
    import numpy as np
    import torch

    atexit._clear()  # temporary folders of libraries belong to the server
    atexit.register(_exit)
    os.setsid()
    os.chdir(cwd)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the server may run under nohup
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for descriptor, path, flags in ((0, os.devnull, os.O_RDONLY), (1, log, append), (2, errors, append)):
        file = os.open(path, flags)
        os.dup2(file, descriptor)
        os.close(file)
    torch.set_num_threads(1)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(int.from_bytes(os.urandom(4), "little"))
    sys.argv = [program, *arguments]
    exec(setup, {})


def _wait(pid: int, seconds: float) -> int | None:
    process = os.pidfd_open(pid)
    ended = select.select([process], [], [], seconds)[0]
    os.close(process)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if ended else None


def serve() -> None:
    """Serve requests until standard input ends; return in every child, which then is like a fresh process."""
    for module in PRELOADED:
        import_module(module)
    gc.freeze()  # otherwise garbage collection in the children copies the memory of the libraries' objects
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "run" in request:
            pid = os.fork()
            if not pid:
                return _reset_process(**request["run"])
            print(json.dumps(pid), flush=True)
        else:
            print(json.dumps(_wait(request["wait"], request["seconds"])), flush=True)
    sys.exit()


if __name__ == "__main__":
    serve()
    try:
        if sys.argv[0].endswith(".py"):
            runpy.run_path(sys.argv[0], run_name="__main__")
        else:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) else 1
        exit_status = code if isinstance(code, int) else int(code is not None)
        raise
