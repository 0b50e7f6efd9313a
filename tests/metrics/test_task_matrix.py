"""Task matrix, forgetting and backward transfer against values computed by hand."""

import json

import pytest

from moleflow.metrics.task_matrix import TaskMatrix

TASKS = [["a", "b"], ["c"], ["d"]]


def _matrix() -> TaskMatrix:
    matrix = TaskMatrix()
    matrix.add(0, {"a": {"ap": 0.8}, "b": {"ap": 0.6}}, TASKS)
    matrix.add(1, {"a": {"ap": 0.9}, "b": {"ap": 0.7}, "c": {"ap": 0.5}}, TASKS)
    matrix.add(2, {"a": {"ap": 0.3}, "b": {"ap": 0.5}, "c": {"ap": 0.6}, "d": {"ap": 1.0}}, TASKS)
    return matrix


def test_entries_are_means_over_all_categories_of_the_task() -> None:
    rows = _matrix().matrix("ap")
    assert [len(row) for row in rows] == [1, 2, 3]
    assert rows[0] == pytest.approx([0.7])
    assert rows[1] == pytest.approx([0.8, 0.5])
    assert rows[2] == pytest.approx([0.4, 0.6, 1.0])


def test_forgetting_and_backward_transfer() -> None:
    matrix = _matrix()
    assert matrix.forgetting("ap") == pytest.approx(((0.8 - 0.4) + (0.6 - 0.6)) / 2)
    assert matrix.backward_transfer("ap") == pytest.approx(((0.4 - 0.7) + (0.6 - 0.5)) / 2)


def test_a_single_task_has_no_forgetting_and_no_backward_transfer() -> None:
    matrix = TaskMatrix()
    matrix.add(0, {"a": {"ap": 0.8}, "b": {"ap": 0.6}}, TASKS)
    assert matrix.forgetting("ap") is None
    assert matrix.backward_transfer("ap") is None


def test_missing_values_are_left_out() -> None:
    matrix = TaskMatrix()
    matrix.add(0, {"a": {"auroc": 1.0}, "b": {"auroc": 0.5, "pro": float("nan")}}, TASKS)
    matrix.add(1, {"a": {"auroc": 1.0}, "b": {"auroc": 0.5, "pro": 0.4}, "c": {"auroc": 0.9, "pro": 0.7}}, TASKS)
    matrix.add(2, {"a": {"auroc": 1.0}, "b": {"auroc": 0.5}, "c": {"auroc": 0.9, "pro": 0.6}, "d": {"pro": 1.0}}, TASKS)
    assert matrix.metrics == ["auroc", "pro"]
    assert matrix.matrix("pro") == [[None], [0.4, 0.7], [None, 0.6, 1.0]]
    assert matrix.matrix("auroc")[2] == [0.75, 0.9, None]
    assert matrix.forgetting("pro") == pytest.approx(0.1)  # task 0 lacks the metric in some rows


def test_json_round_trip() -> None:
    matrix = _matrix()
    restored = TaskMatrix.from_dict(json.loads(json.dumps(matrix.to_dict(), allow_nan=False)))
    assert restored.to_dict() == matrix.to_dict()
    values = {name: {"ap": 0.5} for name in "abcde"}
    restored.add(3, values, [*TASKS, ["e"]])
    assert restored.matrix("ap")[3] == [0.5] * 4
    assert TaskMatrix.from_dict(TaskMatrix().to_dict()).to_dict() == {}


def test_matrix_returns_a_copy() -> None:
    matrix = _matrix()
    matrix.matrix("ap")[0][0] = 9.0
    assert matrix.matrix("ap")[0] == pytest.approx([0.7])


def test_rows_out_of_order_or_incomplete_are_errors() -> None:
    matrix = TaskMatrix()
    with pytest.raises(ValueError, match="next row"):
        matrix.add(1, {}, TASKS)
    with pytest.raises(ValueError, match="no values for b"):
        matrix.add(0, {"a": {"ap": 1.0}}, TASKS)
    with pytest.raises(ValueError, match="1 tasks"):
        matrix.add(0, {}, [])
    with pytest.raises(ValueError, match="lower triangles"):
        TaskMatrix.from_dict({"ap": [[0.1], [0.2]]})
    with pytest.raises(ValueError, match="lower triangles"):
        TaskMatrix.from_dict({"ap": [[0.1]], "auroc": []})


def test_return_gain_is_the_change_by_the_later_task_of_a_category() -> None:
    matrix, tasks = TaskMatrix(), [["a"], ["b"], ["a"], ["b"]]
    matrix.add(0, {"a": {"ap": 0.5}}, tasks)
    matrix.add(1, {"a": {"ap": 0.6}, "b": {"ap": 0.4}}, tasks)
    matrix.add(2, {"a": {"ap": 0.9}, "b": {"ap": 0.3}}, tasks)
    matrix.add(3, {"a": {"ap": 0.8}, "b": {"ap": 0.4}}, tasks)
    assert matrix.return_gain("ap", {2: 0, 3: 1}) == pytest.approx(((0.9 - 0.6) + (0.4 - 0.3)) / 2)
    assert matrix.return_gain("ap", {}) is None
    assert matrix.return_gain("auroc", {2: 0}) is None
