"""A task that a job has learned by itself, on disk until the run takes it in."""

import fcntl
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from moleflow.errors import UserError
from moleflow.files import read_sealed, write_sealed
from moleflow.model import MoLEFlow
from moleflow.store import ExpertStore

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Learned:
    """What the training of a task has given besides its experts.

    Attributes:
        steps: Optimizer steps.
        skipped_steps: Those of them that ``on_nonfinite=skip`` left out.
        history: One entry an epoch: means of the losses and their parts.
    """

    steps: int
    skipped_steps: int
    history: list[dict[str, float]]


class LearnedTask:
    """The folder ``task<i>``: the task's experts in a store of their own, and ``learned.json``, written last.

    Args:
        state: The run's ``state`` folder.
        task: Index of the task.
    """

    def __init__(self, state: Path, task: int) -> None:
        self.folder = state / f"task{task}"
        self._store = ExpertStore(self.folder)
        self._facts = self.folder / "learned.json"

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the task for this process; wait for another one that is at it, such as the job of a run that was killed.

        The lock ends with the process, however that ends.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("%s: another process is learning it; waiting for that one.", self.folder.name)
                fcntl.lockf(file, fcntl.LOCK_EX)
            yield

    def write(self, model: MoLEFlow, experts: Sequence[str], learned: Learned) -> None:
        """Keep some experts of a model and the facts about their training.

        Raises:
            UserError: If the disk is full or the folder cannot be written to.
        """
        tensors = {name: model.expert_state(name) for name in experts}
        self._store.save({}, {}, tensors, {name: model.notes[name] for name in experts})
        write_sealed(self._facts, vars(learned))

    def is_whole(self) -> bool:
        """Return whether the task is learned and every byte of it there; what is damaged is named in a warning."""
        return self._read() is not None

    def join(self, model: MoLEFlow) -> Learned | None:
        """Give a model the task's experts and return the facts; None, with nothing done, if it is not whole."""
        found = self._read()
        if found is None:
            return None
        learned, experts = found
        for name, note in self._store.notes().items():
            model.load_expert(name, note, experts[name])
        return learned

    def clear(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self) -> tuple[Learned, dict[str, dict[str, Tensor]]] | None:
        if not self._facts.is_file():
            return None
        try:
            learned = Learned(**read_sealed(self._facts))
            return learned, {name: self._store.expert(name) for name in self._store.notes()}
        except UserError as error:
            log.warning("%s It is not used: the task is learned again.", error)
            return None
