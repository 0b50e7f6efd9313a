"""The report's data, options and sections."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moleflow.reports.comparison import ComparisonGroup, Configuration
from moleflow.reports.reference_datasets import TARGETS, full_dataset_name
from moleflow.reports.single_key import Effect, single_key_effects
from moleflow.reports.tables import Cell, Table, to_cell
from moleflow.runs.reader import Fault
from moleflow.runs.searches import SearchRecord
from moleflow.utils.errors import UserError, did_you_mean
from moleflow.visualization.plots import Plot

BENCHMARK_CHOICES = ("best", "pareto", "all")
"""Values of ``--benchmark`` that are no configurations."""


@dataclass(frozen=True)
class ReportOptions:
    """Options of the report.

    Attributes:
        metric: The metric that sorts configurations and whose differences are tested.
        target: Target value of the metric; None for the targets of pixel AP on MVTec AD and VisA.
        baseline: Id, label or run of the baseline; empty for the configuration with the most neighbors.
        compare: Two configurations for the table of categories; empty for baseline and best.
        benchmark: Columns of the benchmark table: ``best``, ``pareto``, ``all``, or ids, labels or runs.
    """

    metric: str = "pixel_ap"
    target: float | None = None
    baseline: str = ""
    compare: tuple[str, ...] = ()
    benchmark: tuple[str, ...] = ("best",)


@dataclass(frozen=True)
class Sentence:
    """A paragraph whose parts may have links.

    Attributes:
        parts: Texts, and cells with links.
        tone: ``lead`` for a result, ``warning`` for a warning, or empty.
    """

    parts: Sequence[str | Cell]
    tone: str = ""

    @property
    def cells(self) -> list[Cell]:
        """All parts as cells."""
        return [to_cell(part) for part in self.parts]


@dataclass(frozen=True)
class Facts:
    """The most important values as tiles.

    Attributes:
        items: Name, value, and a line below the value.
    """

    items: Sequence[tuple[str, Cell, str]]


@dataclass(frozen=True)
class Panel:
    """Small tables side by side.

    Attributes:
        title: Heading.
        tables: The tables.
        note: Explanation below the heading.
    """

    title: str
    tables: Sequence[Table]
    note: str = ""


Block = str | Sentence | Facts | Table | Panel | Plot
"""Part of a section."""


@dataclass
class Section:
    """A section of the page.

    Attributes:
        name: Its anchor in the page.
        title: Heading.
        blocks: Parts in order; a section without any is left out.
        question: What the section answers, for the list of contents; empty to leave it out of this list.
        absence: Reason for a section without blocks, for the list of contents.
        anchors: Anchors of each row, by the table's name.
        widget: ``benchmark`` or ``compare``: an interactive part that reads the page's results.
        results: Metrics of all configurations for the interactive parts of the page.
        files: Tables that are written as CSV and LaTeX files, and are not in the page.
    """

    name: str
    title: str
    blocks: list[Block] = field(default_factory=list)
    question: str = ""
    absence: str = ""
    anchors: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    widget: str = ""
    results: dict[str, object] | None = None
    files: list[Table] = field(default_factory=list)

    @property
    def tables(self) -> list[Table]:
        """All tables in the page."""
        panels = [table for block in self.blocks if isinstance(block, Panel) for table in block.tables]
        return [block for block in self.blocks if isinstance(block, Table)] + panels


@dataclass(frozen=True)
class ReportData:
    """Input of the sections.

    Attributes:
        groups: Configurations by data set.
        faults: Run folders without usable results.
        options: Options of the report.
        file_link: Returns the link to a file or folder.
        searches: Folder of the runs, and record of each search.
    """

    groups: list[ComparisonGroup]
    faults: list[Fault]
    options: ReportOptions
    file_link: Callable[[Path], str]
    searches: Sequence[tuple[Path, SearchRecord]] = ()
    _effects: dict[tuple[int, str], list[Effect]] = field(default_factory=dict)

    def effects(self, group: ComparisonGroup, metric: str) -> list[Effect]:
        """Return the effects of single keys in a group of configurations, with Holm's adjustment."""
        key = (id(group), metric)
        if key not in self._effects:
            self._effects[key] = single_key_effects(group, self.baseline(group), metric)
        return self._effects[key]

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
            ("--benchmark", [name for name in self.options.benchmark if name not in BENCHMARK_CHOICES]),
        ):
            for name in names:
                if all(find_configuration(group, name) is None for group in self.groups):
                    known = [text for group in self.groups for c in group.configurations for text in (c.id, c.label)]
                    raise UserError(
                        f"{option} {name}: no configuration has this id, label or run. Choose one from the leaderboard."
                        f"{did_you_mean(name, known)}"
                    )


def find_configuration(group: ComparisonGroup, name: str) -> Configuration | None:
    """Return the configuration with an id, a label or a run of the given name."""
    for configuration in group.configurations:
        if name in (configuration.id, configuration.label, *(run.run_id for run in configuration.runs)):
            return configuration
    return None
