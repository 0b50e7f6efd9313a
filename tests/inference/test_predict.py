"""Predictions: verdicts, errors in their row, files, overlays."""

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from inference.conftest import Trained
from moleflow.inference.predict import limits
from moleflow.model import MoLEFlow
from moleflow.predict import main, pictures
from moleflow.routing import FeatureStatistics, Router


def test_learned_normals_are_known_and_a_foreign_category_is_not(trained: Trained) -> None:
    model = MoLEFlow.load(trained.run)
    normals = sorted((trained.tree / "bottle/train/good").iterdir()) + sorted(
        (trained.tree / "screw/test/good").iterdir()
    )
    known = model.predict(normals)
    assert [p.expert for p in known] == ["bottle"] * 12 + ["screw"] * 6
    assert sum(p.verdict == "unknown" for p in known) <= 2
    foreign = model.predict(sorted((trained.tree / "tile/test/good").iterdir()))
    assert [p.verdict for p in foreign] == ["unknown"] * 6
    chosen = model.predict([foreign[0].path], expert="screw")[0]
    assert chosen.verdict in ("normal", "defect")


def test_the_threshold_comes_from_the_training_scores(trained: Trained) -> None:
    model = MoLEFlow.load(trained.run)
    paths = sorted((trained.tree / "screw/train/good").iterdir())
    scores = torch.tensor([s.score for s in model.score(paths, expert="screw")], dtype=torch.float64)
    assert limits(model, "screw").score == pytest.approx(float(scores.mean() + 3 * scores.std()), rel=1e-6)


def test_who_wants_other_limits_says_how_many_deviations(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(trained.tree / "screw/test/good/000.png")

    def judged(deviations: str) -> list[str]:
        assert main([str(trained.run), path, "--expert=screw", f"--deviations={deviations}"]) == 0
        return capsys.readouterr().out.splitlines()[-1].split()

    seen = MoLEFlow.load(trained.run).seen["screw"].scores.double()
    for deviations in (0.5, 20):
        assert float(judged(str(deviations))[2]) == pytest.approx(
            float(seen.mean() + deviations * seen.std()), rel=1e-3
        )
    assert judged("20")[0] == "normal"
    for wrong in ("0", "inf", "nan"):
        assert main([str(trained.run), path, f"--deviations={wrong}"]) == 1
        assert f"deviations={float(wrong)} must be" in capsys.readouterr().err


@pytest.mark.parametrize("rule", ["pooled", "own", "euclidean"])
def test_held_out_distances_are_those_of_a_router_without_the_picture(rule: str) -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(40, 6, generator=draw), torch.randn(30, 6, generator=draw) + 3
    router = Router(rule)
    router.add("a", FeatureStatistics.from_features(a))
    router.add("b", FeatureStatistics.from_features(b))
    fast = router.held_out_distances("a", a)
    for i in (0, 7, 39):
        without = Router(rule)
        without.add("a", FeatureStatistics.from_features(torch.cat((a[:i], a[i + 1 :]))))
        without.add("b", FeatureStatistics.from_features(b))
        slow = without.distances(a[i : i + 1])[0, 0]
        # The number of pictures behind the covariance, and the level it is shrunk to, are not moved by one.
        assert float(fast[i]) == pytest.approx(float(slow), rel=0.03)
        assert float(fast[i]) > float(router.distances(a[i : i + 1])[0, 0])


def test_an_unreadable_file_is_a_row(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = trained.tree / "bottle/test/good/000.png"
    (tmp_path / "torn.png").write_bytes(good.read_bytes()[:100])
    arguments = [str(trained.run), str(good), str(tmp_path / "torn.png"), str(tmp_path / "missing.png"), str(good)]
    out = [f"--csv={tmp_path / 'out.csv'}", f"--json={tmp_path / 'out.json'}", f"--maps={tmp_path / 'maps'}"]
    assert main(arguments + out) == 0
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [Path(row["path"]).name for row in rows] == ["000.png", "torn.png", "missing.png"]  # each once
    assert [row["verdict"] == "error" for row in rows] == [False, True, True]
    assert "torn.png" in rows[1]["error"]
    alone = MoLEFlow.load(trained.run).score([good])[0].score
    assert rows[0]["score"] == alone  # whatever else was in the batch
    with (tmp_path / "out.csv").open() as file:
        assert [row["verdict"] for row in csv.DictReader(file)] == [row["verdict"] for row in rows]
    (drawn,) = (tmp_path / "maps").iterdir()
    with Image.open(drawn) as overlay:
        assert overlay.size == (64, 64)
    printed = capsys.readouterr().out
    assert printed.count(f"{tmp_path}/torn.png") == printed.count(f"{tmp_path}/missing.png") == 1
    assert "torn.png cannot be read as a picture" in printed
    assert "data set" not in printed
    assert main([str(trained.run), str(tmp_path / "missing.png")]) == 1


def test_folders_and_globs(trained: Trained, tmp_path: Path) -> None:
    assert len(pictures([str(trained.tree / "bottle/test")])) == 9
    assert len(pictures([str(trained.tree / "*/test/good/*.png"), str(trained.tree / "tile/test/good/000.png")])) == 18
    assert pictures([str(tmp_path / "no.png")]) == [tmp_path / "no.png"]


def test_no_model_and_no_picture_are_messages(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "nowhere"), "x.png"]) == 1
    assert f"There is no folder {tmp_path / 'nowhere'}." in capsys.readouterr().err
    assert main([str(tmp_path), "x.png"]) == 1
    assert "manifest.json is missing" in capsys.readouterr().err
    assert main([str(trained.run), str(tmp_path)]) == 1
    assert "no picture" in capsys.readouterr().err
    assert main([str(trained.run), str(trained.tree), "--expert", "scrw"]) == 1
    assert "Did you mean 'screw'" in capsys.readouterr().err


def test_the_run_left_its_pictures(trained: Trained) -> None:
    names = {path.name for path in (trained.run / "pictures").iterdir()}
    assert names == {
        "examples_bottle.jpg",
        "examples_screw.jpg",
        "curves.png",
        "scores.png",
        "learning.png",
        "routing.png",
    }
    for name in names:
        with Image.open(trained.run / "pictures" / name) as picture:
            assert picture.size[0] > 150


def test_what_cannot_be_computed_on_or_written_to_is_told(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(trained.tree / "bottle/test/good/000.png")
    for device in ("cuda:99", "gpu"):
        assert main([str(trained.run), picture, "--device", device]) == 1
        assert f"device={device} cannot be used: " in capsys.readouterr().err
    (tmp_path / "README.md").touch()
    assert main([str(trained.run), picture, "--maps", str(tmp_path / "README.md")]) == 1
    assert f"{tmp_path / 'README.md'} is a file. Choose a folder." in capsys.readouterr().err
