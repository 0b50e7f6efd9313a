"""Operating systems on which moleflow runs."""

import pytest

from moleflow.utils.errors import UserError
from moleflow.utils.platform import check_platform


def test_windows_is_rejected_with_the_systems_that_work() -> None:
    for platform in ("linux", "darwin"):
        check_platform(platform)
    with pytest.raises(UserError, match="runs on Linux, macOS and WSL"):
        check_platform("win32")
