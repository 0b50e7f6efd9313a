"""Each public data set, from its tree to metrics: checked, trained and evaluated."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.dataset_trees import TREES
from helpers.program import CONF, TINY, run_program
from helpers.trees import write_mvtec_tree
from moleflow.cli import check_data
from moleflow.data.tasks import ORDERS

FAST = (*(override for override in TINY if not override.startswith("model.")), "model=gaussian", "transform.size=32")
FIGURES = ("image_auroc", "pixel_ap", "pro")


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write all trees, and return their roots by data set."""
    folder = tmp_path_factory.mktemp("datasets")
    return {name: tree.write(folder / name, tree.categories) for name, tree in TREES.items()}


def train(folder: Path, *overrides: str) -> dict[str, Any]:
    return run_program([*FAST, *overrides], folder)


def check(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Return exit status and lines of ``moleflow check-data ROOT``."""
    parser = argparse.ArgumentParser()
    check_data.add_arguments(parser)
    status = check_data.run(parser.parse_args([str(root)]))
    return status, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", TREES)
def test_data_set_is_checked_trained_and_evaluated(
    roots: dict[str, Path], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines = check(roots[name], capsys)
    assert status == 0, lines
    assert not [line for line in lines if line.startswith("warning") and "are cropped" not in line]
    categories = TREES[name].categories
    metrics = train(
        tmp_path / "run",
        f"dataset={name}",
        f"dataset.root={roots[name]}",
        f"dataset.categories=[{','.join(categories)}]",
    )
    assert tuple(metrics["per_category"]) == categories
    assert all(0 <= metrics[figure] <= 1 for figure in FIGURES)
    assert metrics["routing_accuracy"] > 0.5


def test_every_option_has_a_tree_an_order_and_a_licence() -> None:
    options = {path.stem for path in (CONF / "dataset").glob("*.yaml")} - {"folder", "mixed", "synthetic"}
    assert options == set(TREES)
    for name in options:
        text = (CONF / "dataset" / f"{name}.yaml").read_text()
        assert "Licence: CC BY" in text
        assert set(TREES[name].categories) <= set(ORDERS[name])
        assert yaml.safe_load(text)["categories"] is None


def test_logical_and_structural_anomalies_are_measured_separately(roots: dict[str, Path], tmp_path: Path) -> None:
    arguments = ("dataset=mvtec_loco", f"dataset.root={roots['mvtec_loco']}", "dataset.categories=[pushpins]")
    names = ("image_auroc_logical", "image_auroc_structural", "spro", "spro_logical", "spro_structural")
    for view in ("paper", "full"):
        metrics = train(tmp_path / view, *arguments, f"view={view}", "objective=spro_logical")
        assert all(0 <= metrics[name] <= 1 for name in names)
        assert metrics["spro_logical"] == metrics["per_category"]["pushpins"]["spro_logical"]
        assert metrics["oracle"]["spro"] == metrics["spro"]
        assert metrics["task_matrix"]["spro"] == [[metrics["spro"]]]


def test_objects_are_measured_by_their_views(roots: dict[str, Path], tmp_path: Path) -> None:
    arguments = ("dataset=real_iad", f"dataset.root={roots['real_iad']}", "dataset.categories=[usb]")
    metrics = train(tmp_path / "views", *arguments)
    assert metrics["per_category"]["usb"]["test_pictures"] == 20
    assert 0 <= metrics["object_auroc"] <= 1
    single = train(tmp_path / "single", *arguments, "dataset.views=[1]")
    assert single["per_category"]["usb"]["test_pictures"] == 4
    assert "object_auroc" not in single
    listed = train(tmp_path / "list", *arguments, "dataset.split_dir=realiad_jsons_sv")
    assert listed["image_auroc"] == single["image_auroc"]


def test_mixed_stream_has_all_categories_and_metrics_per_data_set(tmp_path: Path) -> None:
    mvtec, visa = write_mvtec_tree(tmp_path / "a", ORDERS["mvtec"], (24, 24), 3, 1, 1), tmp_path / "b"
    TREES["visa"].write(visa, ORDERS["visa"])
    roots = (f"dataset.parts.mvtec.root={mvtec}", f"dataset.parts.visa.root={visa}")
    metrics = train(tmp_path / "run", "dataset=[mvtec,visa]", *roots, "dataset.shots=3", "scenario=14-1")
    assert tuple(metrics["per_category"]) == (*ORDERS["mvtec"], *ORDERS["visa"])
    assert {name: len(entry["categories"]) for name, entry in metrics["per_dataset"].items()} == {
        "mvtec": 15,
        "visa": 12,
    }
    means = [metrics["per_dataset"][name]["image_auroc"] for name in ("mvtec", "visa")]
    assert math.isclose(metrics["image_auroc"], (15 * means[0] + 12 * means[1]) / 27)
    files = json.loads((tmp_path / "run/data.json").read_text())["files"]
    assert next(iter(files["candle"]["train"])).startswith("visa/candle/Data")
