"""One model of several runs' experts."""

from pathlib import Path

import pytest

from inference.conftest import Trained, train
from moleflow.assemble import main
from moleflow.model import MoLEFlow


@pytest.fixture(scope="module")
def second(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("second") / "run"
    train(trained.tree, run, "dataset.categories=[bottle,tile]")
    return run


def test_experts_of_two_runs_score_as_they_did(trained: Trained, second: Path, tmp_path: Path) -> None:
    assert not (second / "pictures").exists()  # callbacks=progress
    assert main([str(tmp_path / "joined"), f"{trained.run}=bottle,screw", f"{second}=tile"]) == 0
    joined = MoLEFlow.load(tmp_path / "joined")
    assert joined.flow.names == ("bottle", "screw", "tile")
    for run, category in ((trained.run, "screw"), (second, "tile")):
        paths = sorted((trained.tree / category / "test/good").iterdir())
        alone = MoLEFlow.load(run).score(paths, expert=category)
        together = joined.score(paths)
        assert [s.expert for s in together] == [category] * len(paths)
        assert [s.score for s in together] == [s.score for s in alone]


def test_other_bases_settings_and_names_are_refused(
    trained: Trained, second: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    other = tmp_path / "other"
    train(trained.tree, other, "dataset.categories=[tile,screw]", "epochs=1")
    assert main([str(out), f"{trained.run}=screw", f"{other}=tile"]) == 1
    assert "their bases differ" in capsys.readouterr().err
    assert main([str(out), f"{trained.run}=screw", f"{second}=screw"]) == 1
    assert "has no expert 'screw'" in capsys.readouterr().err
    assert main([str(out), f"{trained.run}=bottle", f"{second}=bottle"]) == 1
    assert "Name it once" in capsys.readouterr().err
    otherwise = tmp_path / "otherwise"
    train(trained.tree, otherwise, "dataset.categories=[bottle]", "epochs=1", "seed=1", "model.clamp=2")
    assert main([str(out), str(trained.run), str(otherwise)]) == 1
    assert "differ in model.clamp: 2 instead of 1.9, model.seed: 1 instead of 0." in capsys.readouterr().err
    assert main([str(out), str(trained.run), str(tmp_path / "nowhere")]) == 1
    assert "There is no folder" in capsys.readouterr().err
    assert not out.exists()
