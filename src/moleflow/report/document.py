"""The report's data, options and sections."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from moleflow.report.comparison import ComparisonGroup, Configuration
from moleflow.report.reference_datasets import TARGETS, full_dataset_name
from moleflow.report.tables import Table
from moleflow.runs.reader import Fault
from moleflow.utils.errors import UserError, did_you_mean
from moleflow.visualization.plots import Plot


@dataclass(frozen=True)
class ReportOptions:
    """Options of the report.

    Attributes:
        metric: The metric that sorts configurations and whose differences are tested.
        target: Target value of the metric; None for the targets of pixel AP on MVTec AD and VisA.
        baseline: Id, label or run of the baseline; empty for the configuration with the most neighbors.
        compare: Two configurations for the table of categories; empty for baseline and best.
    """

    metric: str = "pixel_ap"
    target: float | None = None
    baseline: str = ""
    compare: tuple[str, ...] = ()


@dataclass
class Section:
    """A section of the page.

    Attributes:
        name: Its anchor in the page.
        title: Heading.
        blocks: Paragraphs, tables and plots in order.
        anchors: Anchors of each row, by the table's name.
        chooser: Data of an interactive table that compares two configurations.
    """

    name: str
    title: str
    blocks: list[str | Table | Plot] = field(default_factory=list)
    anchors: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    chooser: dict[str, object] | None = None


@dataclass(frozen=True)
class ReportData:
    """Input of the sections.

    Attributes:
        groups: Configurations by data set.
        faults: Run folders without usable results.
        options: Options of the report.
        file_link: Returns the link to a file or folder.
    """

    groups: list[ComparisonGroup]
    faults: list[Fault]
    options: ReportOptions
    file_link: Callable[[Path], str]

    def baseline(self, group: ComparisonGroup) -> Configuration:
        """Return the baseline of a group: the selected one, else the configuration with the most neighbors."""
        if self.options.baseline:
            selected = find_configuration(group, self.options.baseline)
            if selected is not None:
                return selected
        neighbors: dict[str, int] = {}
        for single in group.single_key_groups:
            for _, member in single.members:
                neighbors[member.id] = neighbors.get(member.id, 0) + len(single.members) - 1
        return max(group.configurations, key=lambda c: (neighbors.get(c.id, 0), len(c.runs)))

    def target(self, group: ComparisonGroup, metric: str) -> float | None:
        """Return the target value of a metric: the option's, else that of the whole public data set, else None."""
        if self.options.target is not None:
            return self.options.target if metric == self.options.metric else None
        return TARGETS.get(full_dataset_name(group.best.runs[0])) if metric == "pixel_ap" else None

    def check_options(self) -> None:
        """Check that the configurations in the options exist.

        Raises:
            UserError: If one does not exist; the message suggests similar ones.
        """
        for option, names in (
            ("--baseline", [self.options.baseline] if self.options.baseline else []),
            ("--compare", self.options.compare),
        ):
            for name in names:
                if all(find_configuration(group, name) is None for group in self.groups):
                    known = [text for group in self.groups for c in group.configurations for text in (c.id, c.label)]
                    raise UserError(
                        f"{option} {name}: no configuration has this id, label or run. Choose one from the leaderboard."
                        f"{did_you_mean(name, known)}"
                    )


def find_configuration(group: ComparisonGroup, name: str) -> Configuration | None:
    """Return the configuration with an id (``C01``), a label or a run of the given name."""
    for configuration in group.configurations:
        if name in (configuration.id, configuration.label, *(run.run_id for run in configuration.runs)):
            return configuration
    return None
