"""Progress of a run, from which it is resumed."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from moleflow.metrics.task_matrix import TaskMatrix
from moleflow.utils.io import read_checksummed_json, write_checksummed_json


@dataclass
class Progress:
    """Content of ``state/progress.json``.

    Attributes:
        tasks_done: Number of tasks that are trained, saved and evaluated.
        step: Optimizer steps so far.
        matrix: The task matrix so far.
        seconds: Seconds of feature extraction, training and evaluation.
        skipped_steps: Optimizer steps that ``optimizer.on_nonfinite=skip`` skipped, by task.
        histories: Each task's epochs.
        strategy_state: File in ``state`` with the state of the continual strategy; None without one.
        strategy_values: Number of values in that state.
    """

    tasks_done: int = 0
    step: int = 0
    matrix: TaskMatrix = field(default_factory=TaskMatrix)
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("features", "training", "evaluation"), 0.0)
    )
    skipped_steps: list[int] = field(default_factory=list)
    histories: list[list[dict[str, float]]] = field(default_factory=list)
    strategy_state: str | None = None
    strategy_values: int = 0

    @property
    def log_step(self) -> int:
        """Position of the last finished task on the step axis of the logs.

        These are the optimizer steps so far, and one step per task that has none because it is fitted in closed form.
        """
        return self.step + sum(not history for history in self.histories)

    @contextmanager
    def clock(self, activity: str) -> Iterator[None]:
        """Add the seconds of the ``with`` block to ``seconds[activity]``."""
        start = time.perf_counter()
        yield
        self.seconds[activity] += time.perf_counter() - start

    def write(self, path: Path) -> None:
        """Write the progress to a JSON file."""
        write_checksummed_json(path, vars(self) | {"matrix": self.matrix.to_dict()})

    @classmethod
    def read(cls, path: Path) -> "Progress":
        """Return the progress of a file, or that of a new run if there is no file.

        Raises:
            UserError: If the file is damaged.
        """
        if not path.is_file():
            return cls()
        content = read_checksummed_json(path)
        return cls(**(content | {"matrix": TaskMatrix.from_dict(content["matrix"])}))
