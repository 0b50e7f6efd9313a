"""Tests of whole runs on small generated data sets: the files of a run, and their correctness."""

import csv
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from helpers.processes import Processes
from helpers.program import TINY, run_program
from helpers.trees import write_mvtec_tree, write_visa_tree
from moleflow import MoLEFlow
from moleflow.utils.errors import UserError

CATEGORIES = ("bottle", "cable", "screw")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("mvtec"), CATEGORIES)


def overrides(root: Path, *more: str) -> list[str]:
    return ["dataset=folder", f"dataset.root={root}", *TINY, *more]


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run")
    return folder, run_program(overrides(root, "callbacks=default"), folder)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_run_folder_has_the_documented_files_and_keys(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = finished
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    for key in ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pro", "routing_accuracy"):
        assert 0.0 <= metrics[key] <= 1.0, key
    assert metrics["status"] == "finished"
    assert list(metrics["per_category"]) == list(CATEGORIES)
    assert metrics["task_matrix"]["tasks"] == [[c] for c in CATEGORIES]
    assert [len(row) for row in metrics["task_matrix"]["pixel_ap"]] == [1, 2, 3]
    assert set(metrics["forgetting"]) == set(metrics["backward_transfer"]) >= {"image_auroc", "pixel_ap"}
    assert set(metrics["seconds"]) == {"features", "training", "evaluation"}
    assert metrics["versions"]["torch"] == importlib.metadata.version("torch")
    assert set(metrics["parameters"]["experts"]) == set(CATEGORIES)
    assert sum(metrics["routing"]["counts"]["bottle"].values()) == 6
    assert metrics["training"]["steps"] == 3 * 2 * 2
    assert {path.name for path in folder.iterdir()} >= {
        "config.yaml",
        "metrics.json",
        "scores.csv",
        "status.json",
        "model",
        "pictures",
    }
    assert {path.name for path in (folder / "model").rglob("*.*")} == {
        "manifest.json", "base.safetensors", "bottle.safetensors", "cable.safetensors", "screw.safetensors"
    }  # fmt: skip
    assert json.loads((folder / "status.json").read_text())["status"] == "finished"


def test_metrics_are_those_of_the_written_scores(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = finished
    for category in CATEGORIES:
        images = [row for row in rows(folder) if row["category"] == category]
        labels, scores = [int(row["label"]) for row in images], [float(row["image_score"]) for row in images]
        entry = metrics["per_category"][category]
        assert entry["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        assert entry["image_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
        assert entry["routing_accuracy"] == sum(row["routed_to"] == category for row in images) / len(images)
    mean = sum(metrics["per_category"][c]["pixel_ap"] for c in CATEGORIES) / 3
    assert metrics["pixel_ap"] == pytest.approx(mean, abs=1e-12)


def test_loaded_model_returns_the_scores_of_the_run_to_the_last_bit(
    finished: tuple[Path, dict[str, Any]], root: Path
) -> None:
    folder, _ = finished
    model = MoLEFlow.load(folder)
    written = rows(folder)
    scored = model.score([root / row["path"] for row in written])
    assert [repr(image.score) for image in scored] == [row["image_score"] for row in written]
    assert [image.expert for image in scored] == [row["routed_to"] for row in written]
    alone = model.score([root / written[4]["path"]])[0]
    assert repr(alone.score) == written[4]["image_score"]
    assert alone.anomaly_map.shape == (64, 64)


@pytest.mark.parametrize("model", ["mixture", "padim", "patchcore"])
def test_loaded_closed_form_model_returns_the_scores_of_the_run(model: str, root: Path, tmp_path: Path) -> None:
    tiny = [override for override in TINY if not override.startswith("model.")]
    extra = ["model.channels=8"] if model == "padim" else ["model.size=50"]
    run_program(["dataset=folder", f"dataset.root={root}", *tiny, f"model={model}", *extra], tmp_path)
    written = rows(tmp_path)
    scored = MoLEFlow.load(tmp_path).score([root / row["path"] for row in written])
    assert [repr(image.score) for image in scored] == [row["image_score"] for row in written]


def test_later_task_does_not_change_earlier_categories_by_one_bit(
    finished: tuple[Path, dict[str, Any]], root: Path, tmp_path: Path
) -> None:
    folder, metrics = finished
    shorter = run_program(overrides(root, "dataset.categories=[bottle,cable]"), tmp_path)
    before, after = MoLEFlow.load(tmp_path), MoLEFlow.load(folder)
    paths = [root / row["path"] for row in rows(tmp_path)]
    for category in ("bottle", "cable"):
        assert shorter["per_category"][category]["oracle"] == metrics["per_category"][category]["oracle"]
        for old, new in zip(before.score(paths, category), after.score(paths, category), strict=True):
            assert old.score == new.score
            assert torch.equal(old.anomaly_map, new.anomaly_map)
    for name in ("base", "experts/bottle", "experts/cable"):
        assert (tmp_path / f"model/{name}.safetensors").read_bytes() == (
            folder / f"model/{name}.safetensors"
        ).read_bytes()


def test_finished_run_is_not_repeated_by_the_same_command(finished: tuple[Path, dict[str, Any]], root: Path) -> None:
    folder, metrics = finished
    before = (folder / "metrics.json").stat().st_mtime_ns
    assert run_program(overrides(root, "callbacks=default"), folder) == metrics
    assert (folder / "metrics.json").stat().st_mtime_ns == before


def test_folder_of_another_configuration_is_an_error(finished: tuple[Path, dict[str, Any]], root: Path) -> None:
    with pytest.raises(UserError, match=r"epochs: 2 there, 3 now[\s\S]*hydra.run.dir"):
        run_program(overrides(root, "epochs=3"), finished[0])


def test_tasks_of_two_categories_have_one_expert_per_task_or_per_category(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = ["scenario=10-1", "scenario.split=2-1"]
    per_task = run_program(overrides(root, *more), tmp_path / "task")
    assert "share one expert (bottle+cable)" in caplog.text
    caplog.clear()
    assert per_task["task_matrix"]["tasks"] == [["bottle", "cable"], ["screw"]]
    assert list(per_task["parameters"]["experts"]) == ["bottle+cable", "screw"]
    per_category = run_program(overrides(root, *more, "scenario.experts=category"), tmp_path / "category")
    assert "share one expert" not in caplog.text
    assert list(per_category["parameters"]["experts"]) == list(CATEGORIES)
    assert per_category["task_matrix"]["tasks"] == per_task["task_matrix"]["tasks"]


@pytest.mark.parametrize(
    "change",
    ["model.base=trainable", "model.base=separate", "model.base=context", "loss=sum", "router.oracle=true",
     "model.coupling_layers=0", "model.scale_context_kernel=null", "scoring=percentile", "optimizer=adamw",
     "scoring=subtract_median", "model=whitened", "model=small", "model=whitened_memory", "model.expert_start=nearest"],
)  # fmt: skip
def test_run_with_a_single_change_finishes(change: str, root: Path, tmp_path: Path) -> None:
    metrics = run_program(overrides(root, change, "dataset.categories=[bottle,screw]", "epochs=1"), tmp_path)
    assert metrics["status"] == "finished"
    if change == "router.oracle=true":
        assert metrics["routing_accuracy"] == 1.0
    if change == "model.base=trainable":
        matrix = metrics["task_matrix"]["image_auroc"]
        assert len(matrix) == 2
    scored = MoLEFlow.load(tmp_path).score([root / row["path"] for row in rows(tmp_path)][:3], "bottle")
    assert all(torch.isfinite(image.anomaly_map).all() for image in scored)


def test_run_on_the_layout_of_the_visa_release(tmp_path: Path) -> None:
    root = write_visa_tree(tmp_path / "visa")
    change = ["dataset=visa", f"dataset.root={root}", "dataset.categories=[candle,pcb1]", *TINY, "callbacks=default"]
    metrics = run_program(change, tmp_path / "run")
    assert metrics["per_category"]["candle"]["test_defects"] == 3
    assert 0.0 <= metrics["pixel_ap"] <= 1.0


def test_category_without_masks_has_image_metrics_only(tmp_path: Path) -> None:
    root = write_mvtec_tree(tmp_path / "tree", ("bottle",), masks=False)
    metrics = run_program(overrides(root, "callbacks=default"), tmp_path / "run")
    assert metrics["image_auroc"] is not None
    assert metrics["pixel_ap"] is None
    assert metrics["per_category"]["bottle"]["pro"] is None


REAL = Path(__file__).parents[3] / "shared" / "data" / "realad_mini"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not part of the repository")
def test_run_on_real_images(tmp_path: Path) -> None:
    more = [
        "dataset.categories=[leather,alien]",
        "model.coupling_layers=2",
        "model.lora_rank=4",
        "optimizer.lr=2e-3",
        "epochs=3",
    ]
    change = [
        "+experiment=realad",
        f"dataset.root={REAL}",
        "trainer=cpu",
        "progress=false",
        "callbacks=minimal",
        *more,
    ]
    metrics = run_program([*change, f"features.cache_dir={tmp_path / 'cache'}"], tmp_path / "run")
    assert metrics["routing_accuracy"] == 1.0
    assert metrics["per_category"]["leather"]["image_auroc"] > 0.9
    assert metrics["per_category"]["alien"]["pixel_ap"] is None


@pytest.mark.slow
def test_default_configuration_has_the_recorded_number_of_parameters(tmp_path: Path) -> None:
    """WRN50 at 224 pixels with random weights, D = 768, depth 6, rank 64, two DIA blocks."""
    root = write_mvtec_tree(tmp_path / "tree", ("bottle", "screw"), size=(224, 224), train=2, good=1, defect=1)
    change = ["dataset=mvtec", f"dataset.root={root}", "dataset.categories=[bottle]", "backbone.pretrained=false"]
    quick = ["epochs=1", "batch_size=2", "trainer=cpu", "progress=false", "callbacks=minimal"]
    metrics = run_program([*change, *quick, "features.cache_dir=null"], tmp_path / "run")
    assert metrics["parameters"]["base"] + metrics["parameters"]["experts"]["bottle"] == 12_635_143
    assert metrics["training"]["steps"] == 1
    assert metrics["training"]["epochs"][0][0]["loss"] > 0


@pytest.mark.slow
def test_two_processes_have_the_result_of_one(
    root: Path, finished: tuple[Path, dict[str, Any]], tmp_path: Path, processes: Processes
) -> None:
    arguments = [*overrides(root), "trainer=ddp", "trainer.accelerator=cpu", f"features.cache_dir={tmp_path / 'cache'}"]
    command = processes.run(*arguments, f"hydra.run.dir={tmp_path / 'run'}")
    assert command.returncode == 0, command.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    _, alone = finished
    assert metrics["training"]["steps"] == alone["training"]["steps"]
    assert metrics["routing"] == alone["routing"]
    for key in ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pro"):
        assert metrics[key] == pytest.approx(alone[key], abs=1e-3), key
    for one, two in zip(metrics["training"]["epochs"], alone["training"]["epochs"], strict=True):
        assert one[-1]["grad_norm"] == pytest.approx(two[-1]["grad_norm"], rel=1e-3)
