"""What the sections are made from and made of."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from moleflow.errors import UserError, nearest
from moleflow.report.configurations import Bench, Configuration
from moleflow.report.plots import Plot
from moleflow.report.public import AIMS, whole
from moleflow.report.runs import Fault
from moleflow.report.tables import Table


@dataclass(frozen=True)
class Options:
    """What the user may choose.

    Attributes:
        metric: The metric that orders and is explained.
        target: The value of the metric to reach; None for the aims in pixel AP on the public data sets.
        baseline: Name, label or run of the baseline; empty for the most compared one.
        compare: Two configurations for the per-category table; empty for best and baseline.
    """

    metric: str = "pixel_ap"
    target: float | None = None
    baseline: str = ""
    compare: tuple[str, ...] = ()


@dataclass
class Section:
    """A part of the page.

    Attributes:
        name: Its place in the page.
        title: Heading.
        blocks: Text, tables and plots in order.
        anchors: For a table's name, the ids of each of its rows.
        chooser: Data for tables that the reader fills by choosing two configurations.
    """

    name: str
    title: str
    blocks: list[str | Table | Plot] = field(default_factory=list)
    anchors: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    chooser: dict[str, object] | None = None


@dataclass(frozen=True)
class Content:
    """All that is known when the sections are written.

    Attributes:
        benches: Configurations by data set.
        faults: Folders that gave nothing.
        options: The user's choices.
        address: Returns the link to a file of a run.
    """

    benches: list[Bench]
    faults: list[Fault]
    options: Options
    address: Callable[[Path], str]

    def baseline(self, bench: Bench) -> Configuration:
        """Return what others are compared with: the one named, else the one with the most neighbours."""
        if self.options.baseline:
            found = matching(bench, self.options.baseline)
            if found is not None:
                return found
        degree: dict[str, int] = {}
        for group in bench.groups:
            for _, member in group.members:
                degree[member.name] = degree.get(member.name, 0) + len(group.members) - 1
        return max(bench.configurations, key=lambda c: (degree.get(c.name, 0), len(c.runs)))

    def target(self, bench: Bench, metric: str) -> float | None:
        """Return the value of a metric to reach: the one that was given, else the aim on the whole data set."""
        if self.options.target is not None:
            return self.options.target if metric == self.options.metric else None
        return AIMS.get(whole(bench.best.runs[0])) if metric == "pixel_ap" else None

    def check(self) -> None:
        """Make sure that every configuration that was named exists.

        Raises:
            UserError: If one does not; the message offers the nearest.
        """
        for option, names in (
            ("--baseline", [self.options.baseline] if self.options.baseline else []),
            ("--compare", self.options.compare),
        ):
            for name in names:
                if all(matching(bench, name) is None for bench in self.benches):
                    known = [
                        known for bench in self.benches for c in bench.configurations for known in (c.name, c.label)
                    ]
                    raise UserError(
                        f"{option} {name}: no configuration has that name, label or run.{nearest(name, known)}"
                    )


def matching(bench: Bench, name: str) -> Configuration | None:
    """Return the configuration of a name (C01), a label, an experiment or a run's place."""
    for configuration in bench.configurations:
        places = [run.place for run in configuration.runs]
        if name in (configuration.name, configuration.label, *places):
            return configuration
    return None
