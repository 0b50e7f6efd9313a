"""Names of metrics that only some data sets define."""

GROUPED_METRICS = ("image_auroc", "spro")
"""Metrics that are also computed by group of defects, with the suffix ``_<group>``."""

OBJECT_METRIC = "object_auroc"
"""AUROC of objects with several images."""


def is_data_set_metric(name: str) -> bool:
    """Return whether a name is that of a metric that only some data sets define, such as ``spro_logical``."""
    return name in ("spro", OBJECT_METRIC) or name.startswith(tuple(f"{metric}_" for metric in GROUPED_METRICS))
