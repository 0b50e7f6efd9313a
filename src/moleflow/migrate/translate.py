"""The translation of one command line."""

from collections.abc import Sequence

from moleflow.errors import UserError, choice, nearest
from moleflow.migrate.flags import Flag, flags

# The old program's effective defaults and this one's, where they differ or decide together.
OLD = {
    "optimizer.lr": "2e-4", "model.coupling_layers": "8", "model.dia_blocks": "2", "model.scale_context_kernel": "3",
    "loss.lambda_logdet": "1e-5", "loss.tail_weight": "0.3", "loss.tail_top_k_ratio": "0.05", "loss": "sum",
    "scoring": "percentile", "scoring.percentile": "0.99", "scoring.top_k": "10", "scoring.top_k_percent": "0.05",
    "epochs": "60", "batch_size": "16", "model.lora_rank": "64", "dataset": "mvtec", "seed": "0",
    "backbone": "wide_resnet50_2", "transform.size": "224", "scenario.split": "1-1",
}  # fmt: skip
NEW = {
    "optimizer.lr": "3e-4", "model.coupling_layers": "6", "model.dia_blocks": "2", "model.scale_context_kernel": "5",
    "loss.lambda_logdet": "1e-4", "loss.tail_weight": "0.7", "loss.tail_top_k_ratio": "0.02", "loss": "tail",
    "scoring": "top_k", "scoring.percentile": "0.99", "scoring.top_k": "3", "scoring.top_k_percent": "0.05",
    "epochs": "60", "batch_size": "16", "model.lora_rank": "64", "dataset": "mvtec", "seed": "0",
    "backbone": "wide_resnet50_2", "transform.size": "224", "scenario.split": "1-1",
}  # fmt: skip
_SUM = {"loss.tail_weight": "0.0", "loss.lambda_logdet": "1e-5"}  # what loss=sum brings
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
    """Return the new command line, word by word, and notes on what it does not say.

    Args:
        command: The old one, with or without ``python run_moleflow.py`` in front.

    Raises:
        UserError: If a flag never existed, lacks its value, or has one that nothing here stands for.
    """
    given, notes = _parse(command)
    values = dict(OLD)
    extra: dict[str, str] = {}
    if "use_tail_aware_loss" in given or "tail_weight" in given:
        values["loss"] = "tail"
    if "tail_weight" in given and "use_tail_aware_loss" not in given:
        notes.append(
            "--tail_weight did nothing without --use_tail_aware_loss; the tail is taken as meant. What the old program "
            "did is loss=sum, without any loss.tail_ key."
        )
    if "score_aggregation_top_k" in given and "score_aggregation_mode" not in given:
        values["scoring"] = "top_k"
        notes.append(
            "--score_aggregation_top_k did nothing without --score_aggregation_mode top_k; it is taken as meant."
        )
    for name, words in given.items():
        flag = flags()[name]
        if flag.state != "translated":
            notes.append(f"--{name} {_FATE[flag.state]}.{' ' + flag.note if flag.note else ''}")
        elif flag.kind == "switch":
            key, _, value = flag.key.partition("=")
            (values if key in values else extra)[key] = value
        elif name == "task_classes":
            extra[flag.key] = f"[{','.join(words)}]"
        elif name == "backbone_name":
            _backbone(words[0], values, extra)
        elif name not in ("log_dir", "experiment_name", "ablation_preset"):
            (values if flag.key in values else extra)[flag.key] = words[0]
    for switch in (
        "no_dia",
        "no_lora",
        "no_scale_context",
        "no_spatial_context",
    ):  # stronger than a number, in any order
        if switch in given:
            key, _, value = flags()[switch].key.partition("=")
            (values if key in values else extra)[key] = value
    _folder(given, extra)
    if values["scoring"] == "spatial_cluster":
        raise UserError(
            "--score_aggregation_mode spatial_cluster has no counterpart here. "
            + flags()["score_aggregation_mode"].note
        )
    choice("--score_aggregation_mode", values["scoring"], ("max", "mean", "top_k", "top_k_percent", "percentile"))
    return ["python", "train.py", *_overrides(values, extra)], notes


_FATE = {
    "dead": "did nothing and is left out", "broken": "ended in a crash and is left out",
    "default": "asked for what is on in any case", "dropped": "is not carried over: the new run lacks it",
}  # fmt: skip


def _parse(command: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the flags given, aliases resolved and presets spelt out, with their values."""
    start = next((i for i, word in enumerate(command) if word.startswith("--")), len(command))
    given: dict[str, list[str]] = {}
    notes: list[str] = []
    current: Flag | None = None
    for word in command[start:]:
        if not word.startswith("--"):
            if current is None or current.kind == "switch" or (current.kind == "value" and given[current.flag]):
                raise UserError(f"{word!r} belongs to no flag. Quote values that have spaces in them.")
            given[current.flag].append(word)
            continue
        name, equals, value = word[2:].partition("=")
        current = _flag(name, notes)
        given[current.flag] = [value] if equals else []
    for name, words in given.items():
        if flags()[name].kind != "switch" and not words:
            raise UserError(f"--{name} needs a value.")
    for preset in given.get("ablation_preset", ()):
        given |= {switch: [] for switch in PRESETS[choice("--ablation_preset", preset, PRESETS)]}
    return given, notes


def _flag(name: str, notes: list[str]) -> Flag:
    if name not in flags():
        raise UserError(f"The old program had no flag --{name}.{nearest(name, flags())}")
    flag = flags()[name]
    if flag.state == "alias":
        notes.append(f"--{name} never existed; read as --{flag.key}.")
        flag = flags()[flag.key]
    return flag


def _backbone(name: str, values: dict[str, str], extra: dict[str, str]) -> None:
    if name in BACKBONES:
        values["backbone"] = BACKBONES[name]
    else:
        extra["backbone.name"] = name


def _folder(given: dict[str, list[str]], extra: dict[str, str]) -> None:
    names = [given[flag][0] for flag in ("log_dir", "experiment_name") if flag in given]
    if "log_dir" in given:
        extra["hydra.run.dir"] = "/".join(part.rstrip("/") for part in names)
    elif names:
        extra["name"] = names[0]


def _overrides(values: dict[str, str], extra: dict[str, str]) -> list[str]:
    """Return the overrides that turn this program's defaults into the values, groups before keys."""
    now = NEW | (_SUM if values["loss"] == "sum" else {})
    if values["loss"] == "sum":  # the summed loss has no tail
        values = {key: value for key, value in values.items() if not key.startswith("loss.tail")}
    if values["scenario.split"] in ("3-3", "5-5", "10-5", "10-1", "14-1"):
        values["scenario"] = values.pop("scenario.split")
    aggregation = values["scoring"]
    values = {k: v for k, v in values.items() if not k.startswith("scoring.") or k == f"scoring.{aggregation}"}
    wanted = {key: value for key, value in values.items() if not _equal(value, now.get(key, ""))} | extra
    return [f"{key}={value}" for key, value in sorted(wanted.items(), key=lambda item: ("." in item[0], item[0]))]


def _equal(a: str, b: str) -> bool:
    try:
        return float(a) == float(b)
    except ValueError:
        return a == b
