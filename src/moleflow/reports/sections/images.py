"""Section on the curves of the best run and example images of each data set."""

import base64
import io
import os
import struct
from pathlib import Path

from PIL import Image

from moleflow.reports.comparison import ComparisonGroup, Configuration
from moleflow.reports.document import ReportData, Section
from moleflow.reports.sections.continual import task_labels
from moleflow.runs.reader import Run, as_mapping
from moleflow.utils.errors import UserError, list_names
from moleflow.utils.io import read_regular
from moleflow.visualization.plots import Plot, learning_curves, roc_and_precision, score_histograms, svg_data_uri

_MAX_IMAGE_BYTES = 2_000_000  # of one image
_MAX_TOTAL_BYTES = 4_000_000  # of all example images in the page
_MAX_SIDE = 8000  # pixels
_MAX_CURVES = 60  # categories or tasks in a figure


def images(data: ReportData) -> Section:
    """Return learning curves and score histograms of each data set's best run, and example images.

    The example images are those of the best configuration that has any.
    """
    section = Section("images", "Curves and images")
    remaining = _MAX_TOTAL_BYTES
    for group in data.groups:
        run = group.best.runs[0]
        title = f"best {group.best.id} ({group.best.label}), {group.dataset}"
        epochs = as_mapping(run.metrics.get("training")).get("epochs", [])
        labels = task_labels(run)
        if any(epochs) and labels:
            note = f"Run {run.run_id}. All tasks share the axes."
            figure = learning_curves(epochs[:_MAX_CURVES], labels)
            section.blocks.append(Plot(f"Learning curves: {title}", svg_data_uri(figure), note, wide=True))
        try:
            scores = scores_by_category(run)
        except UserError as error:
            section.blocks.append(f"The scores of {title} are not shown: {error}")
            scores = {}
        if len(scores) > _MAX_CURVES:
            section.blocks.append(f"Curves of the first {_MAX_CURVES} of {len(scores)} categories: {title}.")
            scores = dict(list(scores.items())[:_MAX_CURVES])
        if scores:
            histograms, curves = svg_data_uri(score_histograms(scores)), svg_data_uri(roc_and_precision(scores))
            section.blocks += [
                Plot(f"Image scores of normal and defective images: {title}", histograms, wide=True),
                Plot(f"ROC and precision-recall curves: {title}", curves, wide=True),
            ]
        left_out = []
        shown = illustrated(group)
        title = "" if shown is None else f"{shown[0].label} ({shown[0].id}), seed {shown[1].seed}, {group.dataset}"
        paths = [] if shown is None else sorted((shown[1].folder / "pictures").glob("examples_*.jpg"))
        for path in paths:
            try:
                content = read_image(path)
            except ValueError as error:
                section.blocks.append(f"An image of {title} is not shown: {error}.")
                continue
            remaining -= len(content)
            if remaining > 0:
                name = path.stem.removeprefix("examples_")
                section.blocks.append(Plot(f"Examples, {name}: {title}", image_uri(content), wide=True, photo=True))
            else:
                left_out.append(path.name)
        if left_out:
            section.blocks.append(
                f"The page would become too large; further images are in {paths[0].parent}: {list_names(left_out)}."
            )
    return section


def illustrated(group: ComparisonGroup) -> tuple[Configuration, Run] | None:
    """Return the best configuration that has example images, with its first run that has them."""
    members = ((c, run) for c in group.configurations for run in c.runs)
    return next(((c, run) for c, run in members if os.path.lexists(run.folder / "pictures")), None)


def read_image(path: Path) -> bytes:
    """Return the content of a JPEG or PNG file, after a check of its header.

    Raises:
        ValueError: If it is not a regular file, is too large, or is no such image.
    """
    if path.parent.is_symlink():
        raise ValueError(f"{path.parent} is a symbolic link and must be a folder")
    try:
        content = read_regular(path, _MAX_IMAGE_BYTES, follow_link=False)
        with Image.open(io.BytesIO(content)) as image:
            if image.format not in ("JPEG", "PNG") or max(image.size) > _MAX_SIDE:
                raise ValueError(f"{path.name} is a {image.format} of {image.size} pixels and must be a smaller JPEG")
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path.name} is too large: {error}") from error
    except (OSError, SyntaxError, TypeError, struct.error) as error:
        raise ValueError(f"{path.name} is not an image: {error}") from error
    return content


def image_uri(content: bytes) -> str:
    """Return a JPEG or PNG as a data URI."""
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def scores_by_category(run: Run) -> dict[str, tuple[list[float], list[int]]]:
    """Return image scores and labels of ``scores.csv`` by category.

    Raises:
        UserError: If the file is missing or damaged.
    """
    by_category: dict[str, tuple[list[float], list[int]]] = {}
    for row in run.scores():
        scores, labels = by_category.setdefault(row["category"], ([], []))
        scores.append(float(row["image_score"]))
        labels.append(int(row["label"]))
    return by_category
