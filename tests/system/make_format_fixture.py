"""Makes the run folders and records in ``tests/system/fixtures/format<n>`` of the current model format n.

    PYTHONPATH=src:tests python tests/system/make_format_fixture.py

Run it once per format, before the release that introduces it, and commit the result (about 150 kB). The folders of
a released format are never made again: later versions must load them and return the recorded scores. A change of
the format therefore increases ``moleflow.detector.store.FORMAT`` and brings its own conversion of older folders.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # as in the tests; the last bits of a score depend on it

import contextlib
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from helpers.format_fixtures import FIXTURES, environment, record_experts, record_scores, sample_weights, write_images
from helpers.program import TINY, run_program
from moleflow import MoLEFlow
from moleflow.detector.store import FORMAT

RUNS = {
    "flow": (
        "model.position_code=false",  # otherwise the scores of so few channels hardly depend on the image
        "optimizer.lr=1e-2",
        "+per_category.screw.epochs=3",
        "+per_category.screw.transform.size=96",
        "+per_category.screw.model.adapter=closed_form_whitening",
        "+per_category.screw.scoring.aggregation=max",
        "scoring.map_size=64",
    ),
    "mixture": ("model=mixture", "model.size=40", "model.rank=6", "scoring=subtract_median"),
}
"""Overrides of each run: a trained flow with overrides per category, and a closed-form model with standardization."""

FILES = ("config.yaml", "status.json", "metrics.json", "scores.csv", "model", "state")
"""Files and folders of a run folder that are committed."""


def main() -> None:
    """Train the runs, copy their folders without logs, and write the records.

    Raises:
        FileExistsError: If the fixtures of this format exist.
    """
    fixtures = FIXTURES / f"format{FORMAT}"
    fixtures.mkdir(parents=True)
    with TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        root = write_images(Path("data"))
        for name, overrides in RUNS.items():
            # Settings of the flow do not exist in closed-form models.
            tiny = [o for o in TINY if name == "flow" or not o.startswith(("model.", "scoring."))]
            run_program(["dataset=folder", "dataset.root=data", *tiny, "backbone.dim=8", *overrides], Path(name))
            (fixtures / name).mkdir()
            for file in FILES:
                copy = shutil.copytree if Path(name, file).is_dir() else shutil.copy
                copy(Path(name, file), fixtures / name / file)
            model = MoLEFlow.load(name)
            record = {
                "environment": environment(),
                "weights": sample_weights(model),
                "experts": record_experts(model),
                "scores": record_scores(model, root),
            }
            (fixtures / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
