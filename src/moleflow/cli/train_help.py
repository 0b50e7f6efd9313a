"""Help of ``moleflow train``: options, groups and experiments of the configuration folders, without importing Hydra."""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

from moleflow.catalogue.records import experiment_rows
from moleflow.experiment.conf import conf_folders, group_options, read_config_file, read_description

_USAGE = "usage: moleflow train [OVERRIDE ...] [-m] [--config-dir DIR] [--cfg {job,hydra,all}]"

_INTRODUCTION = (
    "Train and evaluate a detector. An override is group=option, key=value or +experiment=NAME. The same command "
    "resumes an interrupted run. The files of a folder conf/ in the working folder extend the groups and experiments "
    "below."
)

_OPTIONS = (
    ("-m, --multirun", "several runs: keys with several values, as in seed=0,1, or +sweep=NAME"),
    ("--config-dir DIR", "folder with further options, such as DIR/experiment/mine.yaml"),
    ("--cfg job", "print the configuration instead of training; --resolve fills in its references"),
    ("--hydra-help", "all options of Hydra"),
)

_EXPERIMENT = "+experiment=NAME"
_CONCLUSION = "`moleflow catalogue` lists the recorded and proposed metrics of the experiments."


def is_help(arguments: Sequence[str]) -> bool:
    """Return whether the arguments of ``moleflow train`` request its help."""
    return not {"-h", "--help"}.isdisjoint(arguments)


def config_dir(arguments: Sequence[str]) -> Path | None:
    """Return the value of ``--config-dir``, or None."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    try:
        folder: Path | None = parser.parse_known_args(arguments)[0].config_dir
    except argparse.ArgumentError:  # the value is missing; Hydra's parser reports it
        return None
    return folder


def help_text(arguments: Sequence[str] = ()) -> str:
    """Return the help of ``moleflow train``.

    Args:
        arguments: The command line, of which ``--config-dir`` is used.

    Raises:
        UserError: If a configuration folder does not exist, or one of its files is not YAML.
    """
    folders = conf_folders(config_dir(arguments))
    options = group_options(folders)
    by_folder: dict[Path, dict[str, Path]] = {folder: {} for folder in folders}
    for name, path in options["experiment"].items():
        by_folder[path.parents[1]][name] = path
    rows = experiment_rows()
    recorded: dict[str, dict[str, Path]] = {}
    for name in by_folder[folders[0]].keys() & rows:
        recorded.setdefault(rows[name]["group"], {})[name] = options["experiment"][name]
    general = {name: path for name, path in by_folder[folders[0]].items() if name not in rows}

    tables = {"options": dict(_OPTIONS)}
    tables |= {f"experiments of {folder} ({_EXPERIMENT})": _descriptions(by_folder[folder]) for folder in folders[1:]}
    tables[f"experiments ({_EXPERIMENT})"] = _descriptions(general)
    tables["groups (group=option; the default in brackets)"] = _plain_groups(options, folders[0])
    tables["ablations (+ablation=NAME)"] = _descriptions(options["ablation"])
    tables["sweeps (-m +sweep=NAME)"] = _descriptions(options["sweep"])
    for group, files in sorted(recorded.items()):
        tables[f"experiments of the catalogue's group {group} ({_EXPERIMENT})"] = _descriptions(files)

    width = shutil.get_terminal_size().columns
    sections = ["\n".join([f"{title}:", *_table(table, width)]) for title, table in tables.items() if table]
    return "\n\n".join([_USAGE, fill(_INTRODUCTION, width), *sections, _CONCLUSION])


def _descriptions(files: Mapping[str, Path]) -> dict[str, str]:
    return {name: read_description(path) for name, path in sorted(files.items())}


def _plain_groups(options: Mapping[str, Mapping[str, Path]], conf: Path) -> dict[str, str]:
    """Return the options of each group without descriptions, the default in brackets."""
    entries = read_config_file(conf / "config.yaml")["defaults"]
    defaults = {group: str(option) for entry in entries if isinstance(entry, dict) for group, option in entry.items()}
    return {
        group: " ".join(f"[{name}]" if defaults.get(group) == name else name for name in names)
        for group, names in options.items()
        if group not in ("experiment", "ablation", "sweep") and not group.startswith("experiment/")
    }


def _table(rows: Mapping[str, str], width: int) -> list[str]:
    """Return the rows, with continued lines indented below the second column."""
    indent = min(max(map(len, rows)) + 4, width // 2)
    return [
        fill(text or "-", width, initial_indent=f"  {name}  ".ljust(indent), subsequent_indent=" " * indent,
             break_on_hyphens=False)
        for name, text in rows.items()
    ]  # fmt: skip
