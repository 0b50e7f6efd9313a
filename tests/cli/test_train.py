"""Tests of ``moleflow train``: the command line and the hints for wrong overrides."""

from pathlib import Path

import pytest

from helpers.program import CONF, ROOT, run_command
from moleflow.cli import train
from moleflow.cli.train import former_names, hints, hydra_arguments
from moleflow.utils.errors import UserError


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["+experiment=quickstrt"], "experiment=quickstrt is unknown. Did you mean 'quickstart'"),
        (["optimizer.learning_rate=1"], "The key optimizer.learning_rate is unknown. Did you mean 'optimizer.lr"),
        (["dataset.size=64"], "The key dataset.size is unknown. Did you mean 'model.size' or 'transform.size'?"),
        (["learning_rate=1"], "The key learning_rate is unknown."),
        (["top_k=3"], "The key top_k is unknown. Did you mean 'scoring.top_k'"),
        (["per_category.hide.epochs=3"], "write +per_category.hide.epochs=3, with the plus"),
        (["dataset=mvtek"], "dataset=mvtek is unknown. Did you mean 'mvtec'"),
        (["loss=zzz"], "loss=zzz is unknown. Choose one of: nll, sum, tail."),
        (["+sweep=lr", "+experiment=quickstart"], "write experiment=quickstart, without the plus"),
        (["experiment=MVTec-WRN50-TailW0.75-TopK5-TailTopK2-ScaleK5"], "is experiment=tailw0.75."),
        (["hydra/launcher=joblob"], "hydra/launcher=joblob is unknown. Did you mean 'joblib'? Choose one of: basic, "),
    ],
)
def test_hints(arguments: list[str], hint: str) -> None:
    sentences = list(hints(arguments, [CONF]))
    assert any(hint in sentence for sentence in sentences), sentences


@pytest.mark.parametrize("installed", [True, False])
def test_plugin_is_advised_only_if_it_is_not_installed(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[str] = []
    monkeypatch.setattr(train, "find_spec", lambda name: requested.append(name) or (object() if installed else None))
    sentences = list(hints(["hydra/launcher=submitit_local"], [CONF]))
    advice = "hydra/launcher=submitit_local is a plugin that is not installed. Run: pip install 'moleflow[sweep]'"
    assert sentences == ([] if installed else [advice])
    assert requested == ["hydra_plugins.hydra_submitit_launcher"]


@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_multirun_may_stand_between_overrides(flag: str) -> None:
    assert hydra_arguments(["seed=0,1", flag, "epochs=2"]) == [flag, "seed=0,1", "epochs=2"]
    assert hydra_arguments(["seed=0", "--cfg", "job"]) == ["seed=0", "--cfg", "job"]


@pytest.mark.parametrize("option", [["--cfg", "job"], ["--cfg=job"], ["-c", "job"], ["--info"]])
def test_configuration_of_several_jobs_cannot_be_printed(option: list[str]) -> None:
    with pytest.raises(UserError, match=r"cannot be combined with -m\. Leave out -m, and set each key to one value"):
        hydra_arguments(["seed=0,1", *option, "-m"])


def test_long_lists_of_options_are_cut() -> None:
    (sentence,) = hints(["+experiment=zzz"], [CONF])
    assert sentence.startswith("experiment=zzz is unknown. Choose one of: ")
    assert sentence.count(",") == 20
    assert sentence.endswith(" more.")


def test_correct_overrides_get_no_hint() -> None:
    arguments = ["-m", "+experiment=quickstart", "seed=0,1", "optimizer.lr=1e-3", "router=euclidean", "--cfg", "job"]
    arguments += ["continual=replay", "continual.images=10", "view=full", "features.num_workers=2"]
    assert not list(hints(arguments, [CONF]))


@pytest.mark.parametrize(
    ("override", "replacement"),
    [
        ("held_out=0.2", "validation"),
        ("router=own", "router=per_expert_covariance"),
        ("router=pooled", "router=shared_covariance"),
        ("router=oracle", "router.oracle=true"),
        ("router.rule=own", "router.rule=per_expert_covariance"),
        ("model.freedom=5", "model.degrees_of_freedom"),
        ("model.power=0.5", "model.whitening_power"),
        ("model.base=alone", "model.base=none"),
        ("model.adapter=whitening", "model.adapter=affine_norm"),
        ("model.adapter=none,statistics", "model.adapter=closed_form_whitening"),
        ("model.selection=greedy", "model.selection=k_center_greedy"),
        ("scoring.centre=1", "scoring.subtract_median"),
        ("scoring.map_centre=1", "scoring.map_subtract_median"),
        ("scoring.standardise=true", "scoring.standardize"),
        ("scoring=centred", "scoring=subtract_median"),
        ("masks=seen", "masks=cropped"),
        ("masks=native", "masks=full"),
        ("callbacks=progress", "callbacks=minimal"),
        ("callbacks.pictures.each=3", "callbacks.pictures.per_kind"),
        ("callbacks.diagnostics.pictures=3", "callbacks.diagnostics.images"),
        ("continual.pictures=10", "continual.images"),
        ("dataset=demo", "dataset=synthetic"),
        ("hydra.callbacks.sweep.ensemble=true", "the command `moleflow ensemble RUN RUN... -o OUT`"),
        ("+per_category.screw.scoring.centre=1", "per_category.screw.scoring.subtract_median"),
        ("+per_category.screw.model.adapter=whitening", "per_category.screw.model.adapter=affine_norm"),
    ],
)
def test_former_names_get_their_replacement_as_hint(override: str, replacement: str) -> None:
    (sentence,) = former_names([override])
    assert sentence.endswith(f"is unknown. Use {replacement} instead.")
    assert list(hints([override], [CONF])) == [sentence]


def test_present_names_are_no_former_names() -> None:
    assert not list(former_names(["scoring=pooled", "model.adapter=none", "validation=0.2", "--cfg", "per_category"]))


OVERRIDES = ("+experiment=quickstart", "seed=3")


@pytest.mark.parametrize("start", [("-m", "moleflow", "train"), ("-m", "moleflow.cli.train")], ids=["moleflow", "ddp"])
def test_moleflow_train_equals_train_py_in_any_folder(start: tuple[str, ...], tmp_path: Path) -> None:
    script, command = (
        run_command(*words, *OVERRIDES, "--cfg", "all", "--resolve", cwd=tmp_path)
        for words in ((str(ROOT / "train.py"),), start)
    )
    assert command.returncode == 0, command.stderr
    assert command.stdout == script.stdout


def test_processes_of_a_ddp_run_start_this_command() -> None:
    code = (
        "import sys; sys.argv = ['moleflow', 'train', '--cfg', 'job', 'seed=1']\n"
        "from moleflow.__main__ import main; main()\n"
        "import __main__; print(__main__.__spec__.name, *sys.argv[1:])"
    )
    process = run_command("-c", code)
    assert process.stdout.splitlines()[-1] == "moleflow.cli.train --cfg job seed=1", process.stderr


def write_experiment(folder: Path, name: str) -> Path:
    """Write an experiment with another model, and return its configuration folder."""
    path = folder / "experiment" / f"{name}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"# @package _global_\n# Test of {name}.\ndefaults: [override /model: patchcore]\nname: {name}\n")
    return folder


def test_experiments_of_the_working_folder_and_of_config_dir(tmp_path: Path) -> None:
    write_experiment(tmp_path / "conf", "mine")
    other = write_experiment(tmp_path / "other", "another")
    options = ("--config-dir", str(other), "--cfg", "job")
    for name in ("mine", "another"):
        process = run_command("-m", "moleflow", "train", f"+experiment={name}", *options, cwd=tmp_path)
        assert f"\nname: {name}\n" in process.stdout, process.stderr
        assert "patchcore" in process.stdout
    process = run_command("-m", "moleflow", "train", "+experiment=mien", *options, cwd=tmp_path)
    assert process.stderr == "experiment=mien is unknown. Did you mean 'mine'?\n"


def test_a_file_with_the_name_of_one_of_the_package_is_an_error(tmp_path: Path) -> None:
    write_experiment(tmp_path / "conf", "quickstart")
    process = run_command("-m", "moleflow", "train", "+experiment=quickstart", cwd=tmp_path)
    assert process.returncode == 1
    assert process.stderr.startswith(f"{tmp_path}/conf/experiment/quickstart.yaml has no effect")
    assert len(process.stderr.splitlines()) == 1


def test_hydra_errors_of_the_command_line_have_hints(tmp_path: Path) -> None:
    process = run_command("-m", "moleflow", "train", "held_out=0.2", cwd=tmp_path)
    assert process.returncode == 1
    assert "The key held_out is unknown. Use validation instead." in process.stderr
    assert "Traceback" not in process.stderr
