"""The exported graph gives what PyTorch gives."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from helpers.program import TINY, run_program
from inference.conftest import Trained
from moleflow.data import PictureTransform
from moleflow.data.read import read_picture
from moleflow.export import main
from moleflow.inference.export import DeployedExpert, export
from moleflow.inference.overlay import shown_picture
from moleflow.model import MoLEFlow

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def agree(run: Path, tree: Path, graph: Path) -> dict[str, str]:
    """Export the expert of screw, compare with PyTorch picture by picture, and return the graph's metadata."""
    assert main([str(run), "--category", "screw", "-o", str(graph)]) == 0
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    model = MoLEFlow.load(run)
    paths = sorted((tree / "screw/test/good").iterdir())[:3]
    wanted = model.score(paths, expert="screw")
    # The transform is outside of the graph: resize and cut as in training, then RGB in 0 to 1.
    mean, std = (
        np.asarray(v, np.float32).reshape(3, 1, 1)
        for v in (model.extractor.transform.mean, model.extractor.transform.std)
    )
    tensors = np.stack([model.extractor.transform(read_picture(path)).numpy() * std + mean for path in paths])
    for batch in (1, 3):
        scores, maps = session.run(None, {"pictures": tensors[:batch]})
        for i in range(batch):
            assert scores[i] == pytest.approx(wanted[i].score, abs=1e-4, rel=1e-4)
            level = float(wanted[i].anomaly_map.abs().max())  # whose rounding stays where a map passes through zero
            np.testing.assert_allclose(maps[i], wanted[i].anomaly_map.numpy(), atol=max(1e-4, 2e-6 * level), rtol=1e-4)
    assert shown_picture(read_picture(paths[0]), model.extractor.transform).shape == (64, 64, 3)
    notes: dict[str, str] = session.get_modelmeta().custom_metadata_map
    return notes


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_onnxruntime_agrees_with_pytorch(trained: Trained, tmp_path: Path) -> None:
    notes = agree(trained.run, trained.tree, tmp_path / "screw.onnx")
    assert json.loads(notes["categories"]) == ["screw"]
    assert float(notes["threshold"]) > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("model", "scoring"), [("mixture", "pooled"), ("whitened_memory", "centred"), ("padim", "percentile")]
)
def test_any_model_with_any_scoring_agrees(model: str, scoring: str, trained: Trained, tmp_path: Path) -> None:
    data = ["dataset=folder", f"dataset.root={trained.tree}", "dataset.categories=[screw]"]
    tiny = [setting for setting in TINY if not setting.startswith(("model.", "scoring."))]
    change = [f"model={model}", f"scoring={scoring}", "scoring.map_centre=0.5", "epochs=1"]
    run_program([*data, *tiny, *change], tmp_path / "run")
    agree(tmp_path / "run", trained.tree, tmp_path / "screw.onnx")


def prepared(path: Path, notes: dict[str, str]) -> NDArray[np.float32]:
    """Return a picture as the graph takes it, (1, 3, H, W), by the graph's metadata, Pillow and numpy alone."""
    height, width = json.loads(notes["size"])
    picture, mode = Image.open(path).convert("RGB"), notes["mode"]
    scales = width / picture.width, height / picture.height
    across, down = {"crop": (max(scales),) * 2, "pad": (min(scales),) * 2, "squash": scales}[mode]
    size = int(picture.width * across + 1e-6), int(picture.height * down + 1e-6)
    resized = picture.resize(size, Image.Resampling[notes["filter"].upper()])
    left, top = round((resized.width - width) / 2), round((resized.height - height) / 2)
    pixels = np.asarray(resized, np.float32) / 255
    if mode == "pad":
        canvas = np.full((height, width, 3), json.loads(notes["fill"]), np.float32)
        canvas[-top : resized.height - top, -left : resized.width - left] = pixels
        pixels = canvas
    else:
        pixels = pixels[top : top + height, left : left + width]
    return pixels.transpose(2, 0, 1)[None]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
def test_the_metadata_say_all_that_an_application_does_to_a_picture(
    mode: str, trained: Trained, tmp_path: Path
) -> None:
    with Image.open(trained.tree / "screw/test/good/000.png") as picture:
        picture.resize((151, 98)).save(tmp_path / "large.png")
    model = MoLEFlow.load(trained.run)
    model.extractor.transform = PictureTransform(64, mode)
    session = onnxruntime.InferenceSession(str(export(model, "screw", tmp_path / "screw.onnx")))
    pictures = prepared(tmp_path / "large.png", session.get_modelmeta().custom_metadata_map)
    (score,), _ = session.run(None, {"pictures": pictures})
    (wanted,) = model.score([tmp_path / "large.png"], expert="screw")
    assert score == pytest.approx(wanted.score, abs=1e-4, rel=1e-4)


@pytest.mark.parametrize("aggregation", ["max", "mean", "top_k", "top_k_percent", "percentile"])
@pytest.mark.parametrize("more", [{}, {"pool": 3, "centre": 0.5}], ids=["plain", "pooled and centred"])
def test_the_graphs_scores_are_those_of_the_scoring(trained: Trained, aggregation: str, more: dict[str, Any]) -> None:
    model = MoLEFlow.load(trained.run)
    model.scoring = replace(model.scoring, aggregation=aggregation, top_k_percent=0.1, percentile=0.93, **more)
    patches = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    scores = DeployedExpert(model, "screw")._score(patches)
    torch.testing.assert_close(scores, model.scoring.image_scores(patches))


def test_an_unknown_category_is_a_message(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(trained.run), "--category", "scrw"]) == 1
    assert "scrw" in capsys.readouterr().err
