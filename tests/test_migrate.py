"""Old command lines and what they become."""

from pathlib import Path

import pytest

from moleflow.errors import UserError
from moleflow.migrate.flags import STATES, flags, page
from moleflow.migrate.translate import NEW, translate

ROOT = Path(__file__).parents[1]


def new(line: str) -> set[str]:
    command, _ = translate(line.split())
    assert command[:2] == ["python", "train.py"]
    return set(command[2:])


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "migration.md").read_text(encoding="utf-8") == page()


def test_every_flag_has_a_known_state() -> None:
    assert {flag.state for flag in flags().values()} == set(STATES)
    assert all(flag.key for flag in flags().values() if flag.state == "alias")


def test_old_defaults_are_spelt_out() -> None:
    assert new("python run_moleflow.py") == {
        "loss=sum", "scoring=percentile", "optimizer.lr=2e-4", "model.coupling_layers=8", "model.scale_context_kernel=3"
    }  # fmt: skip


def test_the_later_main_model_needs_nothing() -> None:
    assert (
        new(
            "run_moleflow.py --use_tail_aware_loss --tail_weight 0.7 --tail_top_k_ratio 0.02 --lr 3e-4 "
            "--lambda_logdet 1e-4 --num_coupling_layers 6 --scale_context_kernel 5 "
            "--score_aggregation_mode top_k --score_aggregation_top_k 3"
        )
        == set()
    )


def test_mistaken_names_are_read_as_meant() -> None:
    line = "--tail_weight 0.8 --topk 5 --logdet_reg 1e-4 --scale_context_k 5 --learning_rate 2e-4 --dia 4"
    command, notes = translate(["run_moleflow.py", *line.split()])
    assert set(command[2:]) == {
        "loss.tail_weight=0.8", "loss.tail_top_k_ratio=0.05", "scoring.top_k=5", "optimizer.lr=2e-4",
        "model.dia_blocks=4", "model.coupling_layers=8",
    }  # fmt: skip
    assert sum("never existed" in note for note in notes) == 5
    assert any("--tail_weight did nothing" in note for note in notes)


def test_a_switch_wins_over_a_number() -> None:
    assert "model.dia_blocks=0" in new("x.py --no_dia --dia_n_blocks 4")
    assert "model.lora_rank=0" in new("x.py --lora_rank 32 --no_lora")
    assert {"model.lora_rank=0", "router.oracle=true", "model.adapter=none"} <= new(
        "x.py --ablation_preset baseline_nf"
    )


def test_lists_scenarios_and_folders() -> None:
    assert {"dataset=visa", "dataset.categories=[candle,pcb1]", "scenario=3-3", "hydra.run.dir=logs/X"} <= new(
        "x.py --dataset visa --task_classes candle pcb1 --cl_scenario 3-3 --log_dir logs --experiment_name X"
    )


def test_dead_flags_are_named() -> None:
    _, notes = translate(["x.py", "--use_ewc", "--ewc_lambda", "5"])
    assert [note for note in notes if "did nothing" in note and "ewc" in note] == notes
    assert len(notes) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [("--num_epoch 3", "Did you mean 'num_epochs'"), ("--lr", "needs a value"), ("--no_dia 3", "belongs to no flag"),
     ("--score_aggregation_mode spatial_cluster", "no counterpart")],
)  # fmt: skip
def test_what_cannot_be_said(line: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        translate(["x.py", *line.split()])


def test_this_programs_defaults_are_those_of_the_config() -> None:
    from omegaconf import OmegaConf

    from helpers.composing import once

    config = OmegaConf.create(once())
    for key, value in NEW.items():
        if "." in key or key in ("epochs", "batch_size", "seed"):
            found = OmegaConf.select(config, key)
            assert (str(found) if "split" in key else float(found)) == (value if "split" in key else float(value)), key
