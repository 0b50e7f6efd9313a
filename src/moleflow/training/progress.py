"""What a run that was stopped has to know of its past."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from moleflow.files import read_sealed, write_sealed
from moleflow.metrics import TaskMatrix


@dataclass
class Progress:
    """What a continued run has to know of its past; kept in ``state/progress.json``.

    Attributes:
        tasks_done: Number of tasks that are learned, saved and evaluated.
        step: Optimizer steps so far.
        matrix: The task matrix so far.
        seconds: Seconds spent on features, training and evaluation.
        skipped_steps: Optimizer steps left out by ``on_nonfinite=skip``, by task.
        histories: Each task's epochs.
        kept: File in ``state`` of what the strategy keeps; see :mod:`moleflow.training.kept`.
        kept_numbers: How many numbers that is.
    """

    tasks_done: int = 0
    step: int = 0
    matrix: TaskMatrix = field(default_factory=TaskMatrix)
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("features", "training", "evaluation"), 0.0)
    )
    skipped_steps: list[int] = field(default_factory=list)
    histories: list[list[dict[str, float]]] = field(default_factory=list)
    kept: str | None = None
    kept_numbers: int = 0

    @contextmanager
    def clock(self, what: str) -> Iterator[None]:
        """Add the seconds spent inside to ``seconds[what]``."""
        start = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - start

    def write(self, path: Path) -> None:
        """Write everything to a JSON file."""
        write_sealed(path, vars(self) | {"matrix": self.matrix.to_dict()})

    @classmethod
    def read(cls, path: Path) -> "Progress":
        """Return what :meth:`write` wrote, or a fresh start if there is no file.

        Raises:
            UserError: If the file is damaged.
        """
        if not path.is_file():
            return cls()
        content = read_sealed(path)
        return cls(**(content | {"matrix": TaskMatrix.from_dict(content["matrix"])}))
