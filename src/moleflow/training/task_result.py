"""Results of tasks that were trained by other processes, on disk until the run loads them."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from moleflow.detector.detector import MoLEFlow
from moleflow.detector.store import ModelStore
from moleflow.utils.errors import UserError
from moleflow.utils.io import file_lock, read_checksummed_json, write_checksummed_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskResult:
    """Statistics of the training of one task.

    Attributes:
        steps: Optimizer steps.
        skipped_steps: Steps that ``optimizer.on_nonfinite=skip`` skipped; included in ``steps``.
        history: One entry per epoch: means of the loss and its terms.
    """

    steps: int
    skipped_steps: int
    history: list[dict[str, float]]


class StoredTaskResult:
    """The folder ``state/task<i>``: the task's experts as a model folder, and ``result.json``, written last.

    Args:
        state: The run's ``state`` folder.
        task: Index of the task.
    """

    def __init__(self, state: Path, task: int) -> None:
        self.folder = state / f"task{task}"
        self._store = ModelStore(self.folder)
        self._result = self.folder / "result.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the task for this process; wait while another process trains it.

        Such a process may be the job of a run that was killed. The lock ends with the process that holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / ".lock"
        with ExitStack() as stack:
            try:
                stack.enter_context(file_lock(path, wait=False))
            except BlockingIOError:
                log.info("%s: another process trains this task. Waiting for it.", self.folder.name)
                stack.enter_context(file_lock(path, wait=True))
            yield

    def write(self, model: MoLEFlow, experts: Sequence[str], result: TaskResult) -> None:
        """Write some experts of a model and the statistics of their training.

        Raises:
            UserError: If the disk is full or the folder is not writable.
        """
        tensors = {name: model.expert_state(name) for name in experts}
        self._store.save({}, {}, tensors, {name: model.experts[name].manifest_entry() for name in experts})
        write_checksummed_json(self._result, vars(result))

    def is_complete(self) -> bool:
        """Return whether the task is trained and all its files are undamaged; damage is logged as a warning."""
        return self._read() is not None

    def load_into(self, model: MoLEFlow) -> TaskResult | None:
        """Add the task's experts to a model and return the statistics; None if the task is incomplete."""
        content = self._read()
        if content is None:
            return None
        result, tensors = content
        for name, entry in self._store.entries().items():
            model.load_expert(name, entry, tensors[name])
        return result

    def clear(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self) -> tuple[TaskResult, dict[str, dict[str, Tensor]]] | None:
        if not self._result.is_file():
            return None
        try:
            result = TaskResult(**read_checksummed_json(self._result))
            return result, {name: self._store.expert(name) for name in self._store.entries()}
        except UserError as error:
            log.warning("%s The stored task is not used and is trained again.", error)
            return None
