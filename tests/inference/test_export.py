"""The exported graph gives what PyTorch gives."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.conftest import Trained
from moleflow.data.read import read_picture
from moleflow.export import main
from moleflow.inference.export import DeployedExpert
from moleflow.inference.overlay import shown_picture
from moleflow.model import MoLEFlow

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_onnxruntime_agrees_with_pytorch(trained: Trained, tmp_path: Path) -> None:
    assert main([str(trained.run), "--category", "screw", "-o", str(tmp_path / "screw.onnx")]) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "screw.onnx"), providers=["CPUExecutionProvider"])
    notes = session.get_modelmeta().custom_metadata_map
    assert json.loads(notes["categories"]) == ["screw"]
    assert float(notes["threshold"]) > 0
    model = MoLEFlow.load(trained.run)
    paths = sorted((trained.tree / "screw/test/good").iterdir())[:3]
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
            np.testing.assert_allclose(maps[i], wanted[i].anomaly_map.numpy(), atol=1e-4, rtol=1e-4)
    assert shown_picture(read_picture(paths[0]), model.extractor.transform).shape == (64, 64, 3)


@pytest.mark.parametrize("aggregation", ["max", "mean", "top_k", "top_k_percent", "percentile"])
def test_the_graphs_scores_are_those_of_the_scoring(trained: Trained, aggregation: str) -> None:
    model = MoLEFlow.load(trained.run)
    model.scoring = replace(model.scoring, aggregation=aggregation, top_k_percent=0.1, percentile=0.93)
    patches = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    scores = DeployedExpert(model, "screw")._score(patches.flatten(1))
    torch.testing.assert_close(scores, model.scoring.image_scores(patches))


def test_an_unknown_category_is_a_message(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(trained.run), "--category", "scrw"]) == 1
    assert "scrw" in capsys.readouterr().err
