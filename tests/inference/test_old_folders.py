"""Model folders of earlier versions, whose experts held a scatter matrix for the router."""

from pathlib import Path

import pytest
import torch

from inference.conftest import Trained
from moleflow import MoLEFlow
from moleflow.store import ExpertStore


def as_once_written(run: Path, folder: Path, with_seen: bool) -> None:
    """Write a run's model as earlier versions did: with a scatter matrix, and at first without scores of training."""
    now = ExpertStore(run / "model")
    manifest = now.manifest()
    experts, notes = {}, {}
    for entry in manifest["experts"]:
        tensors = now.expert(entry["name"])
        values = tensors["seen.features"].double()
        centred = values - values.mean(dim=0)
        router = {"count": torch.tensor(len(values)), "mean": values.mean(dim=0), "scatter": centred.T @ centred}
        kept = {key: value for key, value in tensors.items() if with_seen or not key.startswith("seen.")}
        experts[entry["name"]] = kept | {f"router.{key}": value for key, value in router.items()}
        notes[entry["name"]] = {key: value for key, value in entry.items() if key not in ("name", "file")}
    ExpertStore(folder).save(manifest["settings"], now.base(), experts, notes)


@pytest.mark.parametrize("with_seen", [True, False])
def test_an_old_folder_scores_and_routes_as_ever(trained: Trained, tmp_path: Path, with_seen: bool) -> None:
    as_once_written(trained.run, tmp_path / "old", with_seen)
    old, new = MoLEFlow.load(tmp_path / "old"), MoLEFlow.load(trained.run)
    paths = sorted((trained.tree / "screw/test").rglob("*.png"))
    for before, after in zip(old.score(paths), new.score(paths), strict=True):
        assert (before.expert, before.score) == (after.expert, after.score)
        assert before.distance == pytest.approx(after.distance, rel=1e-9)
    old.save(tmp_path / "again")
    again = MoLEFlow.load(tmp_path / "again")
    assert [one.distance for one in again.score(paths)] == [one.distance for one in old.score(paths)]


def test_no_expert_file_holds_more_than_its_features_for_the_router(trained: Trained) -> None:
    tensors = ExpertStore(trained.run / "model").expert("screw")
    assert not [key for key in tensors if key.startswith("router.")]
    assert tensors["seen.features"].shape == (12, 16)
