"""Tests of ``moleflow migrate``: command lines of the first implementation and their translations."""

import pytest
from omegaconf import OmegaConf

from helpers.composing import once
from helpers.program import CONF, ROOT
from moleflow.cli.command import main
from moleflow.cli.migrate.flags import STATES, flags, page
from moleflow.cli.migrate.translate import NEW_DEFAULTS, OLD_DEFAULTS, translate
from moleflow.utils.errors import UserError


def overrides(line: str) -> set[str]:
    command, _ = translate(line.split())
    assert command[:2] == ["moleflow", "train"]
    return set(command[2:])


def test_migration_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", "--page"]) == 0
    assert capsys.readouterr().out == page() == (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")


def test_every_state_is_used_and_every_alias_has_a_flag() -> None:
    assert {flag.state for flag in flags().values()} == set(STATES)
    assert all(flag.key in flags() for flag in flags().values() if flag.state == "alias")


def test_every_counterpart_composes() -> None:
    config = OmegaConf.create(once())
    for flag in flags().values():
        if flag.state == "translated" and flag.key and not flag.key.startswith("hydra."):
            key, _, value = flag.key.partition("=")
            if (CONF / key).is_dir():
                assert not value or (CONF / key / f"{value}.yaml").is_file(), flag
            else:
                assert OmegaConf.select(config, key, default="missing") != "missing", flag


def test_defaults_of_the_old_program_are_written_out() -> None:
    assert overrides("python run_moleflow.py") == {
        "loss=sum", "scoring=percentile", "optimizer.lr=2e-4", "model.coupling_layers=8",
        "model.scale_context_kernel=3", "view=paper",
    }  # fmt: skip


def test_present_defaults_are_not_written_out() -> None:
    line = (
        "run_moleflow.py --use_tail_aware_loss --tail_weight 0.7 --tail_top_k_ratio 0.02 --lr 3e-4 "
        "--lambda_logdet 1e-4 --num_coupling_layers 6 --scale_context_kernel 5 "
        "--score_aggregation_mode top_k --score_aggregation_top_k 3"
    )
    assert overrides(line) == {"view=paper"}


def test_aliases_are_read_as_their_flags() -> None:
    line = "--tail_weight 0.8 --topk 5 --logdet_reg 1e-4 --scale_context_k 5 --learning_rate 2e-4 --dia 4"
    command, notes = translate(["run_moleflow.py", *line.split()])
    assert set(command[2:]) == {
        "loss.tail_weight=0.8", "loss.tail_top_k_ratio=0.05", "scoring.top_k=5", "optimizer.lr=2e-4",
        "model.dia_blocks=4", "model.coupling_layers=8", "view=paper",
    }  # fmt: skip
    assert sum("never existed" in note for note in notes) == 5
    assert any("--tail_weight had no effect" in note for note in notes)


def test_switches_take_precedence_over_values() -> None:
    assert "model.dia_blocks=0" in overrides("x.py --no_dia --dia_n_blocks 4")
    assert "model.lora_rank=0" in overrides("x.py --lora_rank 32 --no_lora")
    assert {"model.lora_rank=0", "router.oracle=true", "model.adapter=none"} <= overrides(
        "x.py --ablation_preset baseline_nf"
    )


def test_lists_scenarios_and_folders() -> None:
    assert {"dataset=visa", "dataset.categories=[candle,pcb1]", "scenario=3-3", "hydra.run.dir=logs/X"} <= overrides(
        "x.py --dataset visa --task_classes candle pcb1 --cl_scenario 3-3 --log_dir logs --experiment_name X"
    )


def test_flags_without_effect_become_notes() -> None:
    _, notes = translate(["x.py", "--use_ewc", "--ewc_lambda", "5"])
    assert [note for note in notes if "had no effect" in note and "ewc" in note] == notes
    assert len(notes) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--num_epoch 3", "Did you mean 'num_epochs'"),
        ("--lr", "needs a value"),
        ("--no_dia 3", "belongs to no flag"),
        ("--score_aggregation_mode spatial_cluster", "cannot be translated"),
    ],
)
def test_untranslatable_command_lines_are_errors(line: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        translate(["x.py", *line.split()])


@pytest.mark.parametrize("prefix", [["--"], ["python", "run_moleflow.py"], ["--", "python", "run_moleflow.py"], []])
def test_command_prints_translation_and_notes(prefix: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", *prefix, "--lr", "1e-3", "--use_ewc"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("moleflow train loss=sum")
    assert "optimizer.lr=1e-3" in captured.out
    assert captured.err == "note: --use_ewc had no effect and is left out.\n"


def test_present_defaults_are_those_of_the_configuration() -> None:
    config = OmegaConf.create(once())
    assert NEW_DEFAULTS.keys() == OLD_DEFAULTS.keys()
    for key, value in NEW_DEFAULTS.items():
        if (CONF / key).is_dir():
            assert (CONF / key / f"{value}.yaml").is_file(), key
        elif key == "scenario.split":
            assert config.scenario.split == value
        else:
            assert float(OmegaConf.select(config, key)) == float(value), key
    groups = [group for group in OmegaConf.load(CONF / "config.yaml").defaults if OmegaConf.is_dict(group)]
    options = {key: value for group in groups for key, value in group.items()}
    assert {key: options[key] for key in NEW_DEFAULTS if key in options} == {
        key: value for key, value in NEW_DEFAULTS.items() if (CONF / key).is_dir()
    }
