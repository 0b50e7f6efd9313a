"""Processes of the program that tests may kill, started by a fork server without the time of the imports."""

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
    """A running or ended process.

    Attributes:
        server: The server that forked it.
        pid: Process id.
        log: File of the standard output.
    """

    server: "Processes"
    pid: int
    log: Path

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = 600) -> int | None:
        """Return the exit status; negative for a signal, None if the process still runs after ``seconds``."""
        exit_status: int | None = self.server.request({"wait": self.pid, "seconds": seconds})
        return exit_status

    def wait_for(self, pattern: str, seconds: float = 600) -> None:
        """Return as soon as the output matches a regular expression.

        Raises:
            TimeoutError: If it does not match within ``seconds``.
        """
        end = time.monotonic() + seconds
        while not re.search(pattern, self.output):
            if time.monotonic() > end:
                raise TimeoutError(f"{pattern!r} did not appear in: {self.output[-2000:]}")
            time.sleep(0.005)

    @property
    def output(self) -> str:
        """Content of the log, including that of earlier processes with the same log."""
        return self.log.read_text(errors="replace") if self.log.is_file() else ""


class Processes:
    """Client of the fork server :mod:`helpers.server`."""

    def __init__(self) -> None:
        environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}"}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "helpers.server"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment,
        )  # fmt: skip
        assert self._server.stdout is not None
        assert json.loads(self._server.stdout.readline()) == "ready"

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server."""
        self._server.communicate()

    def request(self, request: dict[str, Any]) -> Any:
        """Send one request to the server and return the reply."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        return json.loads(self._server.stdout.readline())

    def start(
        self,
        *arguments: str,
        log: Path,
        errors: Path | None = None,
        cwd: Path = ROOT,
        setup: str = "",
        program: str = str(ROOT / "train.py"),
    ) -> Process:
        """Start ``python train.py``, or another program, with arguments.

        Args:
            arguments: The command line.
            log: File that standard output is appended to.
            errors: File that standard error is appended to; None: the log.
            cwd: The working folder.
            setup: Python code that the process executes first.
            program: A Python file, or the name of a module.
        """
        options = {"program": program, "cwd": str(cwd), "log": str(log), "errors": str(errors or log)}
        return Process(self, self.request({"run": {"arguments": arguments, **options, "setup": setup}}), log)

    def run(
        self, *arguments: str, cwd: Path = ROOT, seconds: float = 300, **options: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program with arguments and wait for its end.

        Args:
            arguments: The command line.
            cwd: The working folder.
            seconds: Time in which it must end.
            options: ``setup`` and ``program`` of :meth:`start`.

        Raises:
            TimeoutError: If it still runs after ``seconds``.
        """
        with TemporaryDirectory() as folder:
            log, errors = Path(folder) / "log", Path(folder) / "errors"
            process = self.start(*arguments, log=log, errors=errors, cwd=cwd, **options)
            status = process.wait(seconds)
            if status is None:
                process.kill()
                raise TimeoutError(f"{' '.join(arguments)} did not end within {seconds} s")
            return subprocess.CompletedProcess(arguments, status, log.read_text(), errors.read_text())
