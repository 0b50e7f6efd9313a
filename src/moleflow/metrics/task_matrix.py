"""Task matrix of continual learning, with forgetting and backward transfer.

Reference: Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017 (backward transfer);
Chaudhry et al., "Riemannian Walk for Incremental Learning", ECCV 2018 (forgetting).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Self

from moleflow.metrics.averaging import nanmean

Row = list[float | None]


class TaskMatrix:
    """Lower-triangular matrix R[i][j]: a metric on the categories of task j after training task i.

    There is one matrix per metric. An entry is the mean over those categories of the task that have the metric, or None
    if none has it.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Row]] = []

    def add(
        self, after_task: int, values: Mapping[str, Mapping[str, float | None]], tasks: Sequence[Sequence[str]]
    ) -> None:
        """Append the row of one task.

        Args:
            after_task: Index of the task that was trained last; rows are added in order, starting at 0.
            values: Metrics by name of each category of the tasks so far; nan and None are missing values.
            tasks: The categories of each task; those after ``after_task`` are ignored.

        Raises:
            ValueError: If the row is out of order, or there are no values for a task or category so far.
        """
        if after_task != len(self._rows):
            raise ValueError(f"The next row of the task matrix is {len(self._rows)}, not {after_task}.")
        tasks = tasks[: after_task + 1]
        if len(tasks) != after_task + 1:
            raise ValueError(f"After task {after_task} there must be {after_task + 1} tasks, not {len(tasks)}.")
        missing = [category for task in tasks for category in task if category not in values]
        if missing:
            raise ValueError(f"After task {after_task} there are no values for {', '.join(missing)}.")
        names = dict.fromkeys(name for metrics in values.values() for name in metrics)
        self._rows.append({name: [nanmean(values[c].get(name) for c in task) for task in tasks] for name in names})

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self._rows for name in row))

    def matrix(self, metric: str) -> list[Row]:
        """Return the lower triangle: row i has the entries of tasks 0 to i, None for missing values."""
        return [list(row.get(metric, [None] * (i + 1))) for i, row in enumerate(self._rows)]

    def forgetting(self, metric: str) -> float | None:
        """Return the mean over all tasks but the last of the task's highest value minus its final value.

        The final value counts for the maximum, so forgetting is never negative; gains show in ``backward_transfer``.
        None for a single task or without values.
        """
        return self._mean_over_earlier_tasks(metric, lambda column: max(column) - column[-1])

    def backward_transfer(self, metric: str) -> float | None:
        """Return the mean over all tasks but the last of the final value minus the value right after the task.

        None for a single task or without values.
        """
        return self._mean_over_earlier_tasks(metric, lambda column: column[-1] - column[0])

    def return_gain(self, metric: str, returns: Mapping[int, int]) -> float | None:
        """Return the mean over returning tasks of the value right after the task minus that right before it.

        The values are those of the first task of the same category. None without returning tasks or without values.

        Args:
            metric: Name of the metric.
            returns: Index of the first task by that of the returning task.
        """
        matrix = self.matrix(metric)
        pairs = [(matrix[later][first], matrix[later - 1][first]) for later, first in returns.items()]
        return nanmean(after - before for after, before in pairs if after is not None and before is not None)

    def _mean_over_earlier_tasks(self, metric: str, measure: Callable[[list[float]], float]) -> float | None:
        """Return the mean of ``measure`` over the columns of all tasks but the last.

        Columns with a missing value are left out.
        """
        matrix = self.matrix(metric)
        columns = [[row[j] for row in matrix[j:]] for j in range(len(matrix) - 1)]
        values = [[value for value in column if value is not None] for column in columns]
        return nanmean(
            measure(defined) for defined, column in zip(values, columns, strict=True) if len(defined) == len(column)
        )

    def to_dict(self) -> dict[str, list[Row]]:
        """Return the matrix of each metric as JSON-compatible lists."""
        return {metric: self.matrix(metric) for metric in self.metrics}

    @classmethod
    def from_dict(cls, matrices: Mapping[str, Sequence[Sequence[float | None]]]) -> Self:
        """Return the task matrix of a result of ``to_dict``.

        Raises:
            ValueError: If the matrices are not lower triangles of the same size.
        """
        result = cls()
        lengths = {len(matrix) for matrix in matrices.values()}
        if len(lengths) > 1 or any(len(row) != i + 1 for m in matrices.values() for i, row in enumerate(m)):
            raise ValueError("The task matrices are not lower triangles of the same size.")
        count = lengths.pop() if lengths else 0
        result._rows = [{metric: list(matrix[i]) for metric, matrix in matrices.items()} for i in range(count)]
        return result
