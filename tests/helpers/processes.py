"""``python train.py`` in processes of their own, which tests may kill, without the seconds that its imports take."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from helpers.program import ROOT


@dataclass(frozen=True)
class Process:
    """A process that was started."""

    servers: "Processes"
    pid: int
    log: Path

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = 120) -> int | None:
        """Return the exit status; negative for a signal, None if it still runs after that time."""
        exit_status: int | None = self.servers.ask({"wait": self.pid, "seconds": seconds})
        return exit_status

    def wait_for(self, pattern: str, seconds: float = 60) -> None:
        """Return once the output matches.

        Raises:
            TimeoutError: If it does not in time.
        """
        end = time.monotonic() + seconds
        while not re.search(pattern, self.output):
            if time.monotonic() > end:
                raise TimeoutError(f"{pattern!r} did not appear in: {self.output[-2000:]}")
            time.sleep(0.005)

    @property
    def output(self) -> str:
        """Everything that it and its predecessors on the same log printed."""
        return self.log.read_text(errors="replace") if self.log.is_file() else ""


class Processes:
    """A server of processes: see :mod:`helpers.server`."""

    def __init__(self) -> None:
        environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}"}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "helpers.server"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment,
        )  # fmt: skip
        assert self._server.stdout is not None
        assert json.loads(self._server.stdout.readline()) == "ready"

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the server."""
        self._server.communicate()

    def ask(self, request: dict[str, Any]) -> Any:
        """Send one request to the server and return its answer."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        return json.loads(self._server.stdout.readline())

    def start(
        self, *arguments: str, log: Path, errors: Path | None = None, cwd: Path = ROOT, setup: str = ""
    ) -> Process:
        """Start ``python train.py`` with arguments.

        Args:
            arguments: The command line.
            log: Where standard output is added.
            errors: Where standard error is; None: in the log, too.
            cwd: The working folder.
            setup: Python that the process executes first.
        """
        places = {"cwd": str(cwd), "log": str(log), "errors": str(errors or log)}
        return Process(self, self.ask({"run": {"arguments": arguments, **places, "setup": setup}}), log)

    def run(self, *arguments: str, cwd: Path = ROOT, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        """Run ``python train.py`` with arguments to its end.

        Raises:
            TimeoutError: If that does not come in time.
        """
        with TemporaryDirectory() as folder:
            log, errors = Path(folder) / "log", Path(folder) / "errors"
            process = self.start(*arguments, log=log, errors=errors, cwd=cwd)
            status = process.wait(seconds)
            if status is None:
                process.kill()
                raise TimeoutError(f"train.py {' '.join(arguments)}")
            return subprocess.CompletedProcess(arguments, status, log.read_text(), errors.read_text())
