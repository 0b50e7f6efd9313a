"""Progress of a run, from which it is resumed."""

import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moleflow.metrics.task_matrix import TaskMatrix
from moleflow.utils.errors import UserError
from moleflow.utils.io import read_checksummed_json, write_checksummed_json
from moleflow.utils.text import one_line

ACTIVITIES = ("features", "training", "evaluation")
"""Activities whose seconds are measured."""


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
        augmentations: Augmentation that ``augmentation=auto`` chose, with the reasons, by expert.
    """

    tasks_done: int = 0
    step: int = 0
    matrix: TaskMatrix = field(default_factory=TaskMatrix)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ACTIVITIES, 0.0))
    skipped_steps: list[int] = field(default_factory=list)
    histories: list[list[dict[str, float]]] = field(default_factory=list)
    strategy_state: str | None = None
    strategy_values: int = 0
    augmentations: dict[str, dict[str, Any]] = field(default_factory=dict)

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
        write_checksummed_json(path, vars(self) | {"matrix": self.matrix.to_dict()}, indent=None)

    @classmethod
    def read(cls, path: Path) -> "Progress":
        """Return the progress of a file, or that of a new run if there is no file.

        Raises:
            UserError: If the file is damaged.
        """
        if not path.is_file():
            return cls()
        content = read_checksummed_json(path)
        for key in {"tasks_done", "matrix", *content}:
            value = content.get(key)
            if key not in _ALLOWED or not _ALLOWED[key][0](value):
                allowed = _ALLOWED[key][1] if key in _ALLOWED else f"one of {', '.join(_ALLOWED)}"
                raise UserError(
                    f"{path} is damaged: {one_line(str(key), 60)} is {one_line(str(value), 60)} and must be {allowed}."
                )
        done = content["tasks_done"]
        try:
            matrix = TaskMatrix.from_dict(content["matrix"])
        except ValueError as error:
            raise UserError(f"{path} is damaged: matrix: {error}") from error
        lengths = [len(content[key]) for key in ("skipped_steps", "histories") if key in content]
        lengths += [len(rows) for rows in content["matrix"].values()]
        if any(length != done for length in lengths):
            raise UserError(f"{path} is damaged: tasks_done is {done}, but the lists have {lengths} entries.")
        return cls(**(content | {"matrix": matrix}))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_list(value: Any, is_item: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(is_item, value))


def _is_mapping(value: Any, is_item: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(map(is_item, value.values()))


def _is_number_or_null(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_row(value: Any) -> bool:
    return _is_list(value, _is_number_or_null)


_COUNT = (_is_count, "a whole number of at least 0")
_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "tasks_done": _COUNT,
    "step": _COUNT,
    "strategy_values": _COUNT,
    "matrix": (lambda v: _is_mapping(v, lambda rows: _is_list(rows, _is_row)), "a mapping of metrics to matrices"),
    "seconds": (
        lambda v: _is_mapping(v, _is_number) and v.keys() == set(ACTIVITIES),
        f"a mapping of {', '.join(ACTIVITIES)} to numbers",
    ),
    "skipped_steps": (lambda v: _is_list(v, _is_count), "a list of whole numbers"),
    "histories": (
        lambda v: _is_list(v, lambda epochs: _is_list(epochs, lambda epoch: _is_mapping(epoch, _is_number_or_null))),
        "a list of epochs per task",
    ),
    "strategy_state": (
        lambda v: (
            v is None or (isinstance(v, str) and re.fullmatch(r"strategy\d+-[0-9a-f]+\.safetensors", v) is not None)
        ),
        "null or the name of a file strategy<task>-<digest>.safetensors",
    ),
    "augmentations": (
        lambda v: _is_mapping(
            v, lambda choice: isinstance(choice, dict) and isinstance(choice.get("augmentation"), str)
        ),
        "a mapping of experts to their augmentations",
    ),
}
"""Check and description of the allowed values of each entry."""
