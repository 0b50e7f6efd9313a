"""Plain-text tables."""

from moleflow.utils.tables import format_table


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    rows = [["metric", "mean"], ["ap", "0.5"], ["image_auroc", ""]]
    assert format_table(rows) == ["metric       mean", "ap           0.5", "image_auroc"]
