"""Tests of the checks that need no torch; tests/cli/test_command.py checks what the commands import."""

from pathlib import Path

import pytest

from moleflow.experiment.early_checks import check_data_root
from moleflow.utils.errors import UserError

FOLDER = "moleflow.data.datamodule.FolderDataModule"


@pytest.mark.parametrize(
    ("root", "message"),
    [
        (None, r"^dataset\.root=null must be a folder"),
        ("/no/such/folder", r"^dataset\.root=/no/such/folder must be a folder"),
        (".", r"^dataset\.root=\. has no category\. A category is a folder with images"),
    ],
)
def test_root_without_data_is_an_error(
    root: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        check_data_root({"_target_": FOLDER, "root": root})


def test_root_with_a_category_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "screw" / "train").mkdir(parents=True)
    check_data_root({"_target_": FOLDER, "root": str(tmp_path)})


@pytest.mark.parametrize("target", ["moleflow.data.datamodule.SyntheticDataModule", "my.package.DataModule"])
def test_data_modules_that_may_write_their_images_are_not_checked(target: str, tmp_path: Path) -> None:
    check_data_root({"_target_": target, "root": str(tmp_path / "new")})
