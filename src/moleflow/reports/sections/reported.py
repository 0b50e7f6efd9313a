"""Section on the metrics beside those in the config key ``reported``."""

from moleflow.catalogue.comparison import TOLERANCE_RULE, RecordComparison, compare_with_record
from moleflow.catalogue.records import recorded_run
from moleflow.reports.comparison import Configuration
from moleflow.reports.document import ReportData, Section
from moleflow.reports.reference_datasets import image_mismatch
from moleflow.reports.tables import Cell, Item, Table, change_cell, configuration_href, id_cell, metric_cell
from moleflow.runs.reader import as_mapping, finite_number

REPORTED_METRICS = ("pixel_ap", "image_auroc", "pixel_auroc", "image_ap")


def reported(data: ReportData) -> Section:
    """Return measured metrics beside the values in the config's ``reported``."""
    table = Table(
        "reported",
        "Measured and reported metrics",
        ("data set", "id", "configuration", "seeds", "metric", "measured", "reported",
         "difference", "tolerance", "verdict", "note"),
        note=f"The reported values are those in the config key reported. {TOLERANCE_RULE} Values of other images, and "
        "those with compare=false, are not compared.",
    )  # fmt: skip
    for group in data.groups:
        for c in group.configurations:
            values = as_mapping(c.runs[0].config.get("reported"))
            name = str(values.get("run"))
            mismatch = image_mismatch(c.runs[0], name)
            reason = mismatch or ("not compared" if values.get("compare") is False else "")
            row = recorded_run(name)
            for metric in REPORTED_METRICS:
                value, measured = finite_number(values, metric), c.by_seed(metric)
                if value is None or not measured:
                    continue
                record = compare_with_record(
                    measured.values(), value, metric, row["group"] if row else None, group.noise(metric).std
                )
                table.rows.append(
                    [group.dataset, id_cell(c), c.label, len(measured), metric, metric_cell(c, metric), value]
                    + ([None, None, reason] if reason else _record_cells(record, c))
                    + [str(values.get("note") or "")]
                )
    return Section("reported", "Measured and reported", [table] if table.rows else [])


def _record_cells(record: RecordComparison, configuration: Configuration) -> list[Item]:
    """Return difference, tolerance and verdict."""
    tone = {"match": "good", "better": "good", "worse": "bad", "no tolerance": "unsure"}[record.verdict]
    text = "no tolerance: one seed" if record.verdict == "no tolerance" else record.verdict
    is_significant = record.verdict in ("better", "worse")
    return [
        change_cell(record.difference, href=configuration_href(configuration), is_significant=is_significant),
        record.tolerance,
        Cell(text, text, tone=tone),
    ]
