"""Record of a search: its trials and the importance of its parameters, as a file beside the runs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from operator import ge
from pathlib import Path
from typing import Any

from moleflow.runs.content import MAX_NAME, load_json
from moleflow.runs.naming import folder_name
from moleflow.runs.reader import Fault, walk
from moleflow.utils.io import write_json
from moleflow.utils.text import one_line

FOLDER = "searches"
"""Folder of the records, below that of the runs."""

_MAX_TRIALS = 10_000
_MAX_REASON = 300  # characters of a fault's reason


@dataclass(frozen=True)
class Trial:
    """A trial of a search.

    Attributes:
        number: Its number in the study, from 0.
        state: ``complete``, ``pruned``, ``failed``, ``running`` or ``waiting``.
        values: Value of each objective; empty without a result.
        params: Value of each key.
        tasks: Objective after each task, by the number of finished tasks; empty with several objectives.
        folder: The run folder, relative to the folder of the runs; empty if it is unknown.
    """

    number: int
    state: str
    values: Sequence[float]
    params: Mapping[str, Any]
    tasks: Mapping[str, float] = field(default_factory=dict)
    folder: str = ""


@dataclass(frozen=True)
class SearchRecord:
    """A search.

    Attributes:
        study: Name of the study.
        objectives: Keys of ``metrics.json``.
        directions: ``maximize`` or ``minimize``, one per objective.
        sampler: Name of the sampler.
        pruner: Name of the pruner.
        space: Distribution of each key, as a text.
        trials: All trials, in the order of their numbers.
        importance: Importance of each key by objective, with sum 1; empty if there are too few trials.
    """

    study: str
    objectives: Sequence[str]
    directions: Sequence[str]
    sampler: str
    pruner: str
    space: Mapping[str, str]
    trials: Sequence[Trial]
    importance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def best(self) -> list[Trial]:
        """The complete trials that no other one exceeds in all objectives, best first by the first objective."""
        front: list[Trial] = []
        for trial in self.ranked:  # after all that exceed it
            point = self._point(trial)
            others = map(self._point, front)
            if not any(other != point and all(map(ge, other, point)) for other in others):
                front.append(trial)
        return front

    @property
    def ranked(self) -> list[Trial]:
        """The complete trials, best first by the first objective."""
        return sorted((t for t in self.trials if t.state == "complete"), key=self._point, reverse=True)

    def _point(self, trial: Trial) -> list[float]:
        """Return the values of a trial with the signs with which larger ones are better."""
        pairs = zip(self.directions, trial.values, strict=True)
        return [value if direction == "maximize" else -value for direction, value in pairs]

    def write(self, runs: Path) -> Path:
        """Write the record below the folder of the runs and return its path."""
        path = runs / FOLDER / f"{folder_name([self.study])}.json"
        write_json(path, asdict(self))
        return path

    @classmethod
    def read(cls, path: Path) -> "SearchRecord":
        """Return the record of a file.

        Raises:
            ValueError: If the file is not JSON, or is not the record of a search.
            OSError: If it cannot be read.
        """
        content = load_json(path)
        try:
            record = cls(**content | {"trials": [Trial(**trial) for trial in content["trials"]]})
            record._check()
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path.name} is not the record of a search: {error}") from error
        return record

    def _check(self) -> None:
        """Check types and sizes.

        Raises:
            TypeError: If an entry is malformed.
        """
        texts = [self.study, self.sampler, self.pruner, *self.objectives, *self.directions]
        texts += [*self.space, *self.space.values()]
        numbers = [value for importance in self.importance.values() for value in importance.values()]
        for trial in self.trials:
            texts += [trial.state, trial.folder, *trial.params]
            numbers += [trial.number, *trial.values, *trial.tasks.values()]
            if trial.state == "complete" and len(trial.values) != len(self.objectives):
                raise TypeError(f"trial {trial.number} has {len(trial.values)} values")
        if not all(isinstance(text, str) and len(text) <= MAX_NAME for text in texts):
            raise TypeError(f"a name is no text of at most {MAX_NAME} characters")
        if not all(isinstance(number, int | float) for number in numbers):
            raise TypeError("a value is no number")
        if not 0 < len(self.objectives) == len(self.directions) or len(self.trials) > _MAX_TRIALS:
            raise TypeError("it has no objective, or too many trials")


def read_searches(roots: Sequence[Path]) -> tuple[list[tuple[Path, SearchRecord]], list[Fault]]:
    """Read the records of all searches below the given folders.

    Args:
        roots: Folders to search.

    Returns:
        The folder of the runs and the record of each search, and the damaged files.
    """
    folders = dict.fromkeys(folder for root in roots for folder, _ in walk(root.resolve()) if folder.name == FOLDER)
    records, faults = [], []
    for path in (path for folder in folders for path in sorted(folder.glob("*.json"))):
        try:
            records.append((path.parents[1], SearchRecord.read(path)))
        except (OSError, ValueError) as error:
            faults.append(Fault(path, "damaged", f"{one_line(str(error).rstrip('.'), _MAX_REASON)}."))
    return records, faults
