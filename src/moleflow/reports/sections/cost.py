"""Section on time, parameters and memory."""

from moleflow.reports.document import ReportData, Section
from moleflow.reports.tables import Table, configuration_href, id_cell, number_cell
from moleflow.runs.content import load_json
from moleflow.runs.reader import Run, as_mapping


def cost(data: ReportData) -> Section:
    """Return time, parameters and memory of each configuration."""
    table = Table(
        "cost",
        "Cost of a run",
        ("data set", "id", "configuration", "feature extraction (s)", "training (s)", "evaluation (s)",
         "training per task (s)", "base parameters", "parameters per expert", "values kept between tasks",
         "backbone parameters", "model (MB)", "peak memory (MB)", "peak GPU memory (MB)", "device"),
        note="Means over seeds. Times depend on the machine: compare them only between equal devices.",
    )  # fmt: skip
    for group in data.groups:
        for c in group.configurations:
            run, href = c.runs[0], configuration_href(c)
            experts = [
                count
                for name in as_mapping(as_mapping(run.metrics.get("parameters")).get("experts"))
                if (count := run.value("parameters", "experts", name))
            ]
            num_tasks = len(as_mapping(run.metrics.get("task_matrix")).get("tasks", [])) or 1
            extraction, training, evaluation = (
                c.mean("seconds", step) for step in ("features", "training", "evaluation")
            )
            peak, peak_gpu = (c.mean("memory", key) for key in ("peak_bytes", "peak_gpu_bytes"))
            table.rows.append(
                [group.dataset, id_cell(c), c.label]
                + [number_cell(seconds, 1, href) for seconds in (extraction, training, evaluation)]
                + [number_cell(None if training is None else training / num_tasks, 1, href)]
                + [number_cell(run.value("parameters", "base"), 0, href)]
                + [number_cell(sum(experts) / len(experts) if experts else None, 0, href)]
                + [number_cell(run.value("parameters", key), 0, href) for key in ("kept", "backbone")]
                + [number_cell(_megabytes(_model_bytes(run)), 1, href)]
                + [number_cell(_megabytes(size), 0, href) for size in (peak, peak_gpu)]
                + [str(run.metrics.get("device", "–"))]
            )
    return Section("cost", "Cost", [table])


def _megabytes(size: float | None) -> float | None:
    return None if size is None else size / 1e6


def _model_bytes(run: Run) -> float | None:
    """Return the size of the run's model folder according to its manifest, None without a readable one."""
    try:
        files = load_json(run.folder / "model" / "manifest.json")["files"]
        return sum(float(entry["bytes"]) for entry in files.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # ensembles have no model folder
        return None
