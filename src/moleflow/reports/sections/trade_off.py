"""Section on the trade-off between image AUROC and pixel AP."""

from moleflow.reports.document import ReportData, Section
from moleflow.reports.pareto import pareto_front, points
from moleflow.reports.tables import Table, id_cell, metric_cell
from moleflow.visualization.plots import pareto_plot


def trade_off(data: ReportData) -> Section:
    """Return image AUROC over pixel AP, and the configurations on the Pareto front."""
    section = Section("pareto", "Trade-off")
    for i, group in enumerate(data.groups):
        measured = points(group)
        if len(measured) < 2:
            continue
        front = pareto_front(measured)
        front_points = sorted({(x, y) for _, x, y in front})
        labeled = [(c.id, x, y) for c, x, y in measured]
        section.blocks.append(pareto_plot(group.dataset, labeled, front_points, data.target(group, "pixel_ap")))
        table = Table(
            f"pareto{i + 1}", f"Pareto front, {group.dataset}", ("id", "configuration", "image_auroc", "pixel_ap")
        )
        table.rows = [
            [id_cell(c), c.label, metric_cell(c, "image_auroc"), metric_cell(c, "pixel_ap")] for c, _, _ in front
        ]
        section.blocks.append(table)
    return section
