"""Translation of one command line."""

from collections.abc import Sequence

from moleflow.cli.migrate.flags import Flag, flags
from moleflow.utils.errors import UserError, check_choice, did_you_mean

OLD_DEFAULTS = {
    "optimizer.lr": "2e-4", "model.coupling_layers": "8", "model.dia_blocks": "2", "model.scale_context_kernel": "3",
    "loss.lambda_logdet": "1e-5", "loss.tail_weight": "0.3", "loss.tail_top_k_ratio": "0.05", "loss": "sum",
    "scoring": "percentile", "scoring.percentile": "0.99", "scoring.top_k": "10", "scoring.top_k_percent": "0.05",
    "epochs": "60", "batch_size": "16", "model.lora_rank": "64", "dataset": "mvtec", "seed": "0",
    "backbone": "wide_resnet50_2", "transform.size": "224", "scenario.split": "1-1",
    "view": "paper",
}  # fmt: skip
"""Effective defaults of the old program that the translation writes out where the present ones differ."""
NEW_DEFAULTS = {
    "optimizer.lr": "3e-4", "model.coupling_layers": "6", "model.dia_blocks": "2", "model.scale_context_kernel": "5",
    "loss.lambda_logdet": "1e-4", "loss.tail_weight": "0.7", "loss.tail_top_k_ratio": "0.02", "loss": "tail",
    "scoring": "top_k", "scoring.percentile": "0.99", "scoring.top_k": "3", "scoring.top_k_percent": "0.05",
    "epochs": "60", "batch_size": "16", "model.lora_rank": "64", "dataset": "mvtec", "seed": "0",
    "backbone": "wide_resnet50_2", "transform.size": "224", "scenario.split": "1-1",
    "view": "full",
}  # fmt: skip
"""Present defaults of the same keys."""
_SUM_DEFAULTS = {"loss.tail_weight": "0.0", "loss.lambda_logdet": "1e-5"}  # of the option loss=sum
PRESETS = {
    "full": (), "wo_lora": ("no_lora",), "wo_router": ("no_router",), "wo_adapter": ("no_task_adapter",),
    "wo_pos_embed": ("no_pos_embedding",), "wo_router_adapter": ("no_router", "no_task_adapter"),
    "baseline_nf": ("no_lora", "no_router", "no_task_adapter", "no_pos_embedding"),
    "lora_only": ("no_router", "no_task_adapter"),
}  # fmt: skip
BACKBONES = {
    "wide_resnet50_2": "wide_resnet50_2", "resnet50": "resnet50", "resnet18": "resnet18",
    "vit_base_patch16_224.augreg2_in21k_ft_in1k": "vit_base_augreg", "convnext_base": "convnext_base",
}  # fmt: skip


def translate(command: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words of the present command line, and notes on flags without a counterpart.

    Args:
        command: The old command line, with or without ``python run_moleflow.py`` in front.

    Raises:
        UserError: If a flag never existed, has no value, or has a value without a counterpart.
    """
    arguments, notes = _parse(command)
    values = dict(OLD_DEFAULTS)
    extra: dict[str, str] = {}
    if "use_tail_aware_loss" in arguments or "tail_weight" in arguments:
        values["loss"] = "tail"
    if "tail_weight" in arguments and "use_tail_aware_loss" not in arguments:
        notes.append(
            "--tail_weight had no effect without --use_tail_aware_loss; the translation assumes that the tail was "
            "intended. To reproduce the old run, use loss=sum and no loss.tail_ key."
        )
    if "score_aggregation_top_k" in arguments and "score_aggregation_mode" not in arguments:
        values["scoring"] = "top_k"
        notes.append(
            "--score_aggregation_top_k had no effect without --score_aggregation_mode top_k; the translation assumes "
            "that top_k was intended. To reproduce the old run, use scoring=percentile."
        )
    for name, words in arguments.items():
        flag = flags()[name]
        if flag.state != "translated":
            notes.append(f"--{name} {_STATE_NOTES[flag.state]}.{' ' + flag.note if flag.note else ''}")
        elif flag.kind == "switch":
            _set(flag, values, extra)
        elif name == "task_classes":
            extra[flag.key] = f"[{','.join(words)}]"
        elif name == "backbone_name":
            _set_backbone(words[0], values, extra)
        elif name not in ("log_dir", "experiment_name", "ablation_preset"):
            (values if flag.key in values else extra)[flag.key] = words[0]
    for name in ("no_dia", "no_lora", "no_scale_context", "no_spatial_context"):
        if name in arguments:  # takes precedence over a value of the same key, in any order
            _set(flags()[name], values, extra)
    _set_folder(arguments, extra)
    if values["scoring"] == "spatial_cluster":
        note = flags()["score_aggregation_mode"].note
        raise UserError(f"--score_aggregation_mode=spatial_cluster cannot be translated. {note}")
    check_choice("--score_aggregation_mode", values["scoring"], ("max", "mean", "top_k", "top_k_percent", "percentile"))
    return ["moleflow", "train", *_overrides(values, extra)], notes


_STATE_NOTES = {
    "dead": "had no effect and is left out", "broken": "crashed and is left out",
    "default": "requests the default and is left out", "dropped": "has no counterpart and is left out",
}  # fmt: skip


def _parse(command: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the values of the flags, aliases and presets resolved, and notes."""
    start = next((i for i, word in enumerate(command) if word.startswith("--")), len(command))
    arguments: dict[str, list[str]] = {}
    notes: list[str] = []
    current: Flag | None = None
    for word in command[start:]:
        if not word.startswith("--"):
            if current is None or current.kind == "switch" or (current.kind == "value" and arguments[current.flag]):
                raise UserError(f"{word!r} belongs to no flag. Quote values that contain spaces.")
            arguments[current.flag].append(word)
            continue
        name, equals, value = word[2:].partition("=")
        current = _flag(name, notes)
        arguments[current.flag] = [value] if equals else []
    for name, words in arguments.items():
        if flags()[name].kind != "switch" and not words:
            raise UserError(f"--{name} needs a value.")
    for preset in arguments.get("ablation_preset", ()):
        arguments |= {switch: [] for switch in PRESETS[check_choice("--ablation_preset", preset, PRESETS)]}
    return arguments, notes


def _flag(name: str, notes: list[str]) -> Flag:
    if name not in flags():
        raise UserError(f"--{name} is no flag of the old program.{did_you_mean(name, flags())}")
    flag = flags()[name]
    if flag.state == "alias":
        notes.append(f"--{name} never existed; read as --{flag.key}.")
        flag = flags()[flag.key]
    return flag


def _set_backbone(name: str, values: dict[str, str], extra: dict[str, str]) -> None:
    if name in BACKBONES:
        values["backbone"] = BACKBONES[name]
    else:
        extra["backbone.name"] = name


def _set(switch: Flag, values: dict[str, str], extra: dict[str, str]) -> None:
    key, _, value = switch.key.partition("=")
    (values if key in values else extra)[key] = value


def _set_folder(arguments: dict[str, list[str]], extra: dict[str, str]) -> None:
    names = [arguments[flag][0] for flag in ("log_dir", "experiment_name") if flag in arguments]
    if "log_dir" in arguments:
        extra["hydra.run.dir"] = "/".join(part.rstrip("/") for part in names)
    elif names:
        extra["name"] = names[0]


def _overrides(values: dict[str, str], extra: dict[str, str]) -> list[str]:
    """Return the overrides that change the present defaults to the values, groups before keys."""
    defaults = NEW_DEFAULTS | (_SUM_DEFAULTS if values["loss"] == "sum" else {})
    if values["loss"] == "sum":  # has no tail
        values = {key: value for key, value in values.items() if not key.startswith("loss.tail")}
    if values["scenario.split"] in ("3-3", "5-5", "10-5", "10-1", "14-1"):
        values["scenario"] = values.pop("scenario.split")
    aggregation = values["scoring"]
    values = {k: v for k, v in values.items() if not k.startswith("scoring.") or k == f"scoring.{aggregation}"}
    overrides = {key: value for key, value in values.items() if not _equal(value, defaults.get(key, ""))} | extra
    return [f"{key}={value}" for key, value in sorted(overrides.items(), key=lambda item: ("." in item[0], item[0]))]


def _equal(a: str, b: str) -> bool:
    try:
        return float(a) == float(b)
    except ValueError:
        return a == b
