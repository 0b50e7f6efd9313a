"""Findings about a data set: errors, warnings and notes, and their summary in one line per cause."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

Severity = Literal["error", "warning", "note"]

_COUNT = "{count}"


@dataclass(frozen=True)
class Finding:
    """One problem of a data set.

    Attributes:
        severity: ``error`` if a run stops or its results are invalid, ``warning`` if they may be, else ``note``.
        category: The category; empty for files outside all categories.
        message: The problem, with the file.
        cause: Problems of one severity and cause are summarized in one line; empty for a problem of its own.
        plural: The message for several problems of the cause, with this one as example and ``{count}`` in place of
            their number. By default ``message`` and the number of the others.
    """

    severity: Severity
    category: str
    message: str
    cause: str = ""
    plural: str = ""


def summarize(findings: Iterable[Finding]) -> list[Finding]:
    """Return one finding per severity and cause, with the number of problems and one example.

    Args:
        findings: The findings; the first of each cause is the example.
    """
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.cause or finding.message), []).append(finding)
    return [_summary(group[0], len(group)) for group in groups.values()]


def _summary(example: Finding, count: int) -> Finding:
    if count == 1 or not example.cause:
        return example
    plural = example.plural or f"{example.message} The same holds for {count - 1} more."
    return replace(example, message=plural.replace(_COUNT, str(count), 1))
