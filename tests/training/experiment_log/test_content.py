"""Tests of one run in all logs: their scalars are equal, and images, tables, results and model are complete."""

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from helpers.program import TINY, run_program
from helpers.stopping import stop_and_resume
from helpers.trees import write_mvtec_tree
from helpers.wandb_log import STEP, history, of_kind, read_file, read_records, to_dict
from moleflow.training.experiment_log.base import RUN_ID_FILE

Scalars = dict[tuple[str, int], float]
DESCRIPTION = "Two categories, one per task."
IMAGES = {
    "matrices/pixel_ap": 2, "matrices/routing": 2, "examples/bottle": 2, "examples/cable": 1,
}  # fmt: skip
"""Number of images by key: those of the first category after both tasks."""
TABLES = ("tables/categories", "tables/routing", "tables/task_matrix")


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run with all loggers that are installed; the store of MLflow is beside it."""
    root = tmp_path_factory.mktemp("run")
    tree = write_mvtec_tree(root / "tree", ["bottle", "cable"], train=4, good=2, defect=2)
    extras = [name for name in ("tensorboard", "mlflow") if is_installed(name)]
    overrides = [
        "dataset=folder",
        f"dataset.root={tree}",
        "validation=1",
        f'description="{DESCRIPTION}"',
        "seed=3",
        f"logger=[{','.join(('csv', 'wandb', *extras))}]",
    ]
    if "mlflow" in extras:
        overrides.append(f"logger.mlflow.tracking_uri=file:{root / 'mlflow'}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database takes seconds
        run_program([*TINY, *overrides], root / "run")
    return root / "run"


@pytest.fixture(scope="module")
def metrics(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return content


@pytest.fixture(scope="module")
def wandb_records(run: Path) -> list[Any]:
    return list(read_records(run))


def csv_scalars(run: Path) -> Scalars:
    with next((run / "logs").rglob("metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    return {
        (key, int(row["step"])): float(value) for row in rows for key, value in row.items() if value and key != "step"
    }


def wandb_scalars(records: list[Any]) -> Scalars:
    scalars = {}
    for row in history(records):
        media = {key.removesuffix("._type") for key in row if key.endswith("._type")}
        for key, value in row.items():
            is_internal = key == STEP or key.startswith("_") or key.rpartition(".")[0] in media
            if isinstance(value, int | float) and not is_internal:
                scalars[key, row[STEP]] = float(value)
    return scalars


def assert_equal(first: Scalars, second: Scalars) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert second[key] == pytest.approx(value, rel=1e-6, abs=1e-9), key


def test_scalars_are_complete(run: Path, metrics: dict[str, Any]) -> None:
    scalars = csv_scalars(run)
    keys = {key for key, _ in scalars}
    terms = ("loss", "nll_mean", "nll_tail", "logdet_penalty", "grad_norm", "skipped_steps", "lr", "task")
    assert {f"train/{name}" for name in terms} | {"val/nll", "val/nll_counted"} <= keys
    end = metrics["training"]["steps"]
    for name in ("image_auroc", "pixel_ap", "routing_accuracy"):
        assert scalars[f"final/{name}", end] == pytest.approx(metrics[name])
        assert scalars[f"task/{name}", end] == pytest.approx(metrics[name])
        assert scalars[f"forgetting/{name}", end] == pytest.approx(metrics["forgetting"][name])
        assert scalars[f"best/{name}", end] >= scalars[f"final/{name}", end] - 1e-12
        for category, values in metrics["per_category"].items():
            assert scalars[f"category/{category}/{name}", end] == pytest.approx(values[name])
    steps = sorted(step for key, step in scalars if key == "category/bottle/pixel_ap")
    assert len(steps) == 2
    assert [scalars["category/bottle/pixel_ap", step] for step in steps] == pytest.approx(
        [row[0] for row in metrics["task_matrix"]["pixel_ap"]]
    )
    assert [step for key, step in scalars if key == "category/cable/pixel_ap"] == [end]


def test_wandb_has_the_scalars_of_the_csv_file(run: Path, wandb_records: list[Any]) -> None:
    assert_equal(csv_scalars(run), wandb_scalars(wandb_records))


def test_tensorboard_has_the_same_scalars_and_images(run: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), {"images": 0, "scalars": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    scalars = {(tag, event.step): event.value for tag in tags["scalars"] for event in events.Scalars(tag)}
    # The tab HPARAMS repeats the final values at step 0.
    assert_equal(csv_scalars(run), {key: value for key, value in scalars.items() if key[1] > 0})
    assert {tag: len(events.Images(tag)) for tag in tags["images"]} == IMAGES
    assert {f"{table}/text_summary" for table in TABLES} <= set(tags["tensors"])
    assert events.Tensors("description/text_summary")[0].tensor_proto.string_val == [DESCRIPTION.encode()]


def test_mlflow_has_the_same_scalars_images_and_results(run: Path, metrics: dict[str, Any]) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        client = MlflowClient(f"file:{run.parent / 'mlflow'}")
        (logged,) = client.search_runs([client.get_experiment_by_name("moleflow").experiment_id])
        history = {key: client.get_metric_history(logged.info.run_id, key) for key in logged.data.metrics}
    assert_equal(csv_scalars(run), {(key, point.step): point.value for key in history for point in history[key]})
    tags, artifacts = logged.data.tags, Path(logged.info.artifact_uri.removeprefix("file:"))
    assert tags["moleflow.run_id"] == (run / RUN_ID_FILE).read_text().strip()
    assert (tags["group"], tags["job_type"], tags["mlflow.note.content"]) == ("default", "seed3", DESCRIPTION)
    assert tags["labels"] == "moleflow, folder, test_resnet, 1-1"
    assert logged.data.params["scenario/split"] == "1-1"
    assert logged.info.status == "FINISHED"
    assert len(list((artifacts / "images").glob("*.png"))) == sum(IMAGES.values())
    assert (artifacts / "model/manifest.json").read_bytes() == (run / "model/manifest.json").read_bytes()
    assert json.loads((artifacts / "metrics.json").read_text())["pixel_ap"] == metrics["pixel_ap"]
    for table in TABLES:
        assert (artifacts / f"{table}.csv").read_text().count("\n") > 2


def test_wandb_has_one_step_axis_that_never_decreases(wandb_records: list[Any], metrics: dict[str, Any]) -> None:
    defined = of_kind(wandb_records, "metric")
    assert ("*", STEP) in [(metric.glob_name, metric.step_metric) for metric in defined]
    rows = history(wandb_records)
    steps = [row[STEP] for row in rows]  # every row has it
    assert steps == sorted(steps)
    assert steps[-1] == metrics["training"]["steps"]


def test_wandb_images_and_tables_after_each_task(run: Path, wandb_records: list[Any]) -> None:
    rows = history(wandb_records)
    images = [(key.removesuffix(".path"), row[key]) for row in rows for key in row if key.endswith(".path")]
    counts = {name: sum(key == name for key, _ in images) for name in (*IMAGES, *TABLES)}
    assert counts == IMAGES | dict.fromkeys(TABLES, 2)
    (files,) = run.glob("wandb/offline-run-*/files")
    assert all((files / path).stat().st_size > 0 for _, path in images)


def test_wandb_summary_has_final_and_best_values(wandb_records: list[Any], metrics: dict[str, Any]) -> None:
    summary: dict[str, Any] = {}
    for record in of_kind(wandb_records, "summary"):
        summary |= to_dict(record.update)
    for name in ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pro", "routing_accuracy"):
        assert summary[name] == pytest.approx(metrics[name], rel=1e-12)
    best, values = (
        [row[key] for row in history(wandb_records) if key in row] for key in ("best/pixel_ap", "task/pixel_ap")
    )
    assert best == [pytest.approx(max(values))]


def test_wandb_run_has_name_group_tags_notes_and_the_stored_id(run: Path, wandb_records: list[Any]) -> None:
    (record,) = of_kind(wandb_records, "run")
    assert record.run_id == (run / RUN_ID_FILE).read_text().strip()
    assert (record.run_group, record.job_type, record.notes) == ("default", "seed3", DESCRIPTION)
    assert list(record.tags) == ["moleflow", "folder", "test_resnet", "1-1"]
    assert record.display_name.startswith("backbone=resnet18 backbone.name=test_resnet")  # the overrides
    config: dict[str, Any] = {}
    for each in of_kind(wandb_records, "config"):
        config |= to_dict(each.update)
    logged = yaml.safe_load((run / "config.yaml").read_text())
    assert {key.split(".")[0] for key in config} >= logged.keys()


def test_wandb_artifact_is_the_model_folder(run: Path, wandb_records: list[Any]) -> None:
    (model,) = [artifact for artifact in of_kind(wandb_records, "artifact") if artifact.type == "model"]
    assert model.name == "model-default"
    assert set(model.aliases) == {"latest", (run / RUN_ID_FILE).read_text().strip()}
    files = {path.relative_to(run / "model").as_posix() for path in (run / "model").rglob("*") if path.is_file()}
    assert {entry.path for entry in model.manifest.contents} == files
    metadata = json.loads(model.metadata)
    assert metadata["pixel_ap"] == pytest.approx(json.loads((run / "metrics.json").read_text())["pixel_ap"])


def test_examples_show_image_truth_and_map(run: Path, wandb_records: list[Any]) -> None:
    (files,) = run.glob("wandb/offline-run-*/files")
    rows = [row for row in history(wandb_records) if "examples/cable.path" in row]
    with Image.open(files / rows[0]["examples/cable.path"]) as image:
        pixels = np.asarray(image.convert("RGB"), float)
    assert image.height == 128
    width = image.width // 3
    truth = pixels[:, width + 4 : 2 * width]
    assert truth.min() < 40  # black and white
    assert truth.max() > 215


def test_resumed_run_continues_its_log(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    overrides = [*TINY, "dataset=folder", f"dataset.root={run.parent / 'tree'}", "logger=wandb"]
    stop_and_resume(overrides, tmp_path / "run", task=1, epoch=0)
    files = sorted((tmp_path / "run").glob("wandb/offline-run-*/*.wandb"))
    logs = [list(read_file(path)) for path in files]
    identity = (tmp_path / "run" / RUN_ID_FILE).read_text().strip()
    assert [record.run_id for log in logs for record in of_kind(log, "run")] == [identity, identity]
    assert [record.exit_code for log in logs for record in of_kind(log, "exit")] == [1, 0]
    first, second = ([row[STEP] for row in history(log)] for log in logs)
    assert second == sorted(second)
    assert first[-1] <= second[0]
