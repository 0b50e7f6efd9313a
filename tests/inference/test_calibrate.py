"""Calibration of experts by images that were not trained on."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.detectors import fit_detector, normal_images, training_images
from helpers.trees import write_mvtec_tree
from moleflow.cli.command import main
from moleflow.detector.calibration import CALIBRATION_FILE
from moleflow.detector.detector import MoLEFlow
from moleflow.inference.calibrate import calibrate_expert, calibration_images, threshold_at_recall
from moleflow.scoring.thresholds import pooled_thresholds, threshold_at_rate
from moleflow.utils.errors import UserError


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("data"), ("bottle", "screw"), train=5, good=6, defect=3)


@pytest.fixture(scope="module")
def detector(tree: Path) -> MoLEFlow:
    return fit_detector(tree)


@pytest.fixture
def model(detector: MoLEFlow, tmp_path: Path) -> Path:
    """Model folder of the detector."""
    detector.save(tmp_path / "model")
    return tmp_path / "model"


def test_normal_and_defective_images_are_told_apart_by_their_folders(tree: Path, tmp_path: Path) -> None:
    normal, defective = calibration_images(tree / "screw")
    assert normal == normal_images(tree, "screw")
    assert len(defective) == 3
    assert not any("ground_truth" in path.parts for path in defective)
    for name in ("a.png", "OK/b.png", "scratch/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    normal, defective = calibration_images(tmp_path)
    assert [path.name for path in normal] == ["b.png", "a.png"]
    assert [path.name for path in defective] == ["c.png"]


def test_calibration_replaces_the_thresholds_until_it_is_removed(
    tree: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = MoLEFlow.load(model).thresholds("screw")
    files = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    assert main(["calibrate", str(model), str(tree / "screw" / "test" / "good"), "--category=screw"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"screw: threshold {before.score.value:.4g} -> ")
    assert "6 normal images guarantee a false-alarm rate of 28.6% at best" in out
    calibrated = MoLEFlow.load(model)
    scores = np.array([image.score for image in calibrated.score(normal_images(tree, "screw"), "screw")])
    distances = np.array([image.distance for image in calibrated.score(normal_images(tree, "screw"), "screw")])
    after = calibrated.thresholds("screw", 0.2, 0.1)
    assert after.score == threshold_at_rate(scores, 0.2)
    bottle = calibrated.experts["bottle"].training
    assert bottle is not None
    others = calibrated.router.leave_one_out_distances("bottle", bottle.features).numpy()
    expected = pooled_thresholds({"bottle": others, "screw": distances}, 0.1)["screw"]
    assert after.distance.value == pytest.approx(expected.value)
    assert (after.source, after.rate, after.normal_scores) == ("calibration", 0.2, sorted(scores.tolist()))
    assert calibrated.thresholds("bottle").source == "fitted"
    assert main(["calibrate", str(model), "--remove", "--category", "screw"]) == 0
    assert MoLEFlow.load(model).thresholds("screw") == before
    assert files == {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("options", "rate"), [(["--criterion=f1"], None), (["--criterion=recall", "--recall=1"], None)]
)
def test_labeled_defects_choose_the_threshold(options: list[str], rate: None, tree: Path, model: Path) -> None:
    assert main(["calibrate", str(model), str(tree), *options]) == 0
    thresholds = MoLEFlow.load(model).thresholds("screw")
    assert thresholds.rate is rate
    content = json.loads((model / CALIBRATION_FILE).read_text())
    entry = content["experts"]["screw"]
    assert thresholds.score.value == entry["threshold"]
    if "--recall=1" in options:
        assert min(entry["defect_scores"]) > entry["threshold"]


@pytest.mark.parametrize(("recall", "expected"), [(1.0, 1.5), (0.75, 3.0), (0.5, 5.5), (0.01, 7.0)])
def test_threshold_is_the_highest_of_the_recall(recall: float, expected: float) -> None:
    assert threshold_at_recall([0.0, 1.0, 5.0], [2.0, 4.0, 6.0, 8.0], recall) == pytest.approx(expected)


def test_images_that_cannot_calibrate(detector: MoLEFlow, tree: Path, tmp_path: Path) -> None:
    good = normal_images(tree, "screw")
    with pytest.raises(UserError, match="1 normal images cannot calibrate"):
        calibrate_expert(detector, "screw", good[:1])
    with pytest.raises(UserError, match="1 of 7 images were trained on"):
        calibrate_expert(detector, "screw", [*good, training_images(tree, "screw")[0]])
    with pytest.raises(UserError, match="requires defective images"):
        calibrate_expert(detector, "screw", good, criterion="f1")
    with pytest.raises(UserError, match="recall must be given"):
        calibrate_expert(detector, "screw", good, good, criterion="recall")
    copies = []
    for i in range(3):
        copies.append(tmp_path / f"{i}.png")
        copies[-1].write_bytes(good[0].read_bytes())
    with pytest.raises(UserError, match="copies of one image"):
        calibrate_expert(detector, "screw", copies)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give either FOLDER or --remove"),
        (["missing"], "missing does not exist"),
        (["{empty}"], "has no folder of a trained category (bottle, screw)"),
        (["{empty}", "--category=screw"], "has no images"),
        (["{empty}", "--category=tile"], "No expert was trained on category='tile'"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    words = [word.format(empty=tmp_path / "empty") for word in arguments]
    assert main(["calibrate", str(model), *words]) == 1
    assert message in capsys.readouterr().err
    assert not (model / CALIBRATION_FILE).exists()


def test_fewer_images_than_before_are_named(tree: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replaced = len(MoLEFlow.load(model).thresholds("screw").normal_scores)
    few = [str(path) for path in normal_images(tree, "screw")[:2]]
    folder = model.parent / "few"
    folder.mkdir()
    for path in few:
        (folder / Path(path).name).write_bytes(Path(path).read_bytes())
    assert main(["calibrate", str(model), str(folder), "--category=screw"]) == 0
    assert f"They replace {replaced} normal images (fitted)." in capsys.readouterr().out
    assert main(["calibrate", str(model), str(folder), "--category=screw"]) == 0  # as many as before
    assert "They replace" not in capsys.readouterr().out


def test_a_calibration_of_other_experts_keeps_its_scores_but_not_its_distances(tree: Path, model: Path) -> None:
    assert main(["calibrate", str(model), str(tree / "screw"), "--category=screw"]) == 0
    loaded = MoLEFlow.load(model)
    calibrated = loaded.thresholds("screw")
    del loaded.experts["bottle"]
    changed = loaded.thresholds("screw")
    assert changed.score == calibrated.score
    assert changed.distance != calibrated.distance


def test_a_damaged_calibration_is_an_error(tree: Path, model: Path) -> None:
    assert main(["calibrate", str(model), str(tree / "screw"), "--category=screw"]) == 0
    path = model / CALIBRATION_FILE
    path.write_text(path.read_text().replace("[", "[0.5,", 1))
    with pytest.raises(UserError, match=CALIBRATION_FILE):
        MoLEFlow.load(model)
