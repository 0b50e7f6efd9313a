"""What a sequence of tasks does to the metrics: the task matrix and the measures read from it.

Reference: Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017 (backward transfer);
Chaudhry et al., "Riemannian Walk for Incremental Learning", ECCV 2018 (forgetting).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Self

from moleflow.metrics.summary import mean_of_known

Row = list[float | None]


class TaskMatrix:
    """R[i][j]: each metric on the categories of task j after training task i, for j up to i.

    An entry is the mean over the categories of the task that have the metric, or None where none has it.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Row]] = []

    def add(
        self, after_task: int, values: Mapping[str, Mapping[str, float | None]], tasks: Sequence[Sequence[str]]
    ) -> None:
        """Append the row that belongs to one task.

        Args:
            after_task: Index of the task that has just been learned; rows come in order, starting at 0.
            values: For each category seen so far its metrics by name; nan and None mean that it has none.
            tasks: The categories of each task; those after ``after_task`` are not looked at.

        Raises:
            ValueError: If the row is out of order, or a task or a category that was seen has no values.
        """
        if after_task != len(self._rows):
            raise ValueError(f"The next row of the task matrix is {len(self._rows)}, not {after_task}.")
        seen = tasks[: after_task + 1]
        if len(seen) != after_task + 1:
            raise ValueError(f"After task {after_task} there must be {after_task + 1} tasks, not {len(seen)}.")
        missing = [category for task in seen for category in task if category not in values]
        if missing:
            raise ValueError(f"After task {after_task} there are no values for {', '.join(missing)}.")
        names = dict.fromkeys(name for metrics in values.values() for name in metrics)
        self._rows.append({name: [mean_of_known(values[c].get(name) for c in task) for task in seen] for name in names})

    @property
    def metrics(self) -> list[str]:
        """The names of all metrics, in the order in which they came."""
        return list(dict.fromkeys(name for row in self._rows for name in row))

    def matrix(self, metric: str) -> list[Row]:
        """Return the lower triangle: row i has the entries of tasks 0 to i, None where there is no value."""
        return [list(row.get(metric, [None] * (i + 1))) for i, row in enumerate(self._rows)]

    def average(self, metric: str) -> float | None:
        """Return the mean over tasks after the last one, or None without a value."""
        return mean_of_known(self.matrix(metric)[-1]) if self._rows else None

    def forgetting(self, metric: str) -> float | None:
        """Return the mean over earlier tasks of the best value ever held minus the last one.

        It is never negative, as the last value counts among those held: a gain shows in ``backward_transfer``.
        None for a single task or without values.
        """
        return self._over_earlier(metric, lambda column: max(column) - column[-1])

    def backward_transfer(self, metric: str) -> float | None:
        """Return the mean over earlier tasks of the last value minus the one just after learning the task.

        None for a single task or without values.
        """
        return self._over_earlier(metric, lambda column: column[-1] - column[0])

    def _over_earlier(self, metric: str, measure: Callable[[list[float]], float]) -> float | None:
        """Return the mean of ``measure`` over the columns of all tasks but the last."""
        matrix = self.matrix(metric)
        columns = [[row[j] for row in matrix[j:]] for j in range(len(matrix) - 1)]
        known = [[value for value in column if value is not None] for column in columns]
        # A task without the metric in some row has no history to measure.
        return mean_of_known(
            measure(values) for values, column in zip(known, columns, strict=True) if len(values) == len(column)
        )

    def to_dict(self) -> dict[str, list[Row]]:
        """Return the matrix of each metric, ready for JSON."""
        return {metric: self.matrix(metric) for metric in self.metrics}

    @classmethod
    def from_dict(cls, matrices: Mapping[str, Sequence[Sequence[float | None]]]) -> Self:
        """Return the task matrix that ``to_dict`` wrote.

        Raises:
            ValueError: If the matrices are not triangular or differ in length.
        """
        restored = cls()
        lengths = {len(matrix) for matrix in matrices.values()}
        if len(lengths) > 1 or any(len(row) != i + 1 for m in matrices.values() for i, row in enumerate(m)):
            raise ValueError("The task matrices are not lower triangles of one size.")
        count = lengths.pop() if lengths else 0
        restored._rows = [{metric: list(matrix[i]) for metric, matrix in matrices.items()} for i in range(count)]
        return restored
