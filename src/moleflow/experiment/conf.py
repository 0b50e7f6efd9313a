"""Configuration folders: ``conf/`` of the package, and folders of the user that extend it. Does not import Hydra."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from moleflow.utils.errors import UserError

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # with libyaml 10 times faster


def find_conf() -> Path:
    """Return the configuration folder of the package: ``moleflow/conf`` of a wheel, or ``conf/`` of the checkout.

    Raises:
        UserError: If there is none.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parents[1] / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise UserError(f"The installation of moleflow in {package} has no folder conf. Install moleflow again.")


def working_folder_conf() -> Path | None:
    """Return the folder ``conf/`` of the working folder, which extends that of the package; None if there is none."""
    folder = Path.cwd() / "conf"
    return None if not folder.is_dir() or folder.samefile(find_conf()) else folder


def conf_folders(config_dir: Path | None = None) -> list[Path]:
    """Return the configuration folders in the order of their precedence; that of the package is the first.

    Args:
        config_dir: Value of ``--config-dir``; None if it is not set.

    Raises:
        UserError: If ``config_dir`` does not exist, or a file would have no effect because the package has another one
            of this name.
    """
    if config_dir is not None and not config_dir.is_dir():
        raise UserError(f"--config-dir={config_dir} is not a folder. Name a folder such as conf/.")
    package = find_conf()
    folders = [folder for folder in (working_folder_conf(), config_dir) if folder is not None]
    for folder in folders:
        _check_names(folder, package)
    return [package, *folders]


def group_options(folders: Sequence[Path]) -> dict[str, dict[str, Path]]:
    """Return the file of each option by group and option, both in alphabetical order.

    Args:
        folders: Configuration folders.
    """
    files = {
        (path.parent.relative_to(folder).as_posix(), path.stem): path
        for folder in reversed(folders)
        for path in folder.rglob("*.yaml")
        if path.parent != folder
    }
    options: dict[str, dict[str, Path]] = {}
    for group, option in sorted(files):
        options.setdefault(group, {})[option] = files[group, option]
    return options


def read_config_file(path: Path) -> dict[str, Any]:
    """Return the content of a configuration file; an empty one if it has no keys.

    Raises:
        UserError: If it is not YAML.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=cast(Any, _Loader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    return content if isinstance(content, dict) else {}


def read_description(path: Path) -> str:
    """Return the description of a configuration file: its key ``description``, or its first comment's first sentence.

    Lines of the comment that begin with ``python``, ``moleflow`` or ``@`` are a command or Hydra's package. The text is
    empty if the file has neither.

    Raises:
        UserError: If the file is not YAML.
    """
    if description := read_config_file(path).get("description"):
        return str(description)
    comment: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        content = line.lstrip("# ").strip()
        if content and not content.startswith(("@", "python ", "moleflow ")):
            comment.append(content)
    sentence = re.split(r"(?<=\.)\s", " ".join(comment), maxsplit=1)[0]
    return f"{sentence.rstrip('.')}." if sentence else ""


def _check_names(folder: Path, package: Path) -> None:
    """Check that no file of a user's folder has the name of another file of the package."""
    for path in sorted(folder.rglob("*.yaml")):
        name = path.relative_to(folder)
        original = package / name
        if original.is_file() and original.read_bytes() != path.read_bytes():
            raise UserError(
                f"{path} has no effect: moleflow has a file conf/{name.as_posix()} of its own. Rename {path.name}"
                + (", or run the command in another folder." if folder == working_folder_conf() else ".")
            )
