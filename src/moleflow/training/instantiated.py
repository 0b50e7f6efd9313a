"""Hydra's ``instantiate`` with a message in place of its traceback."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from moleflow.errors import UserError


def instantiated(key: str, config: Any, **extra: Any) -> Any:
    """Return what a config describes; a wrong argument is the user's to mend.

    Args:
        key: Where the config stands, for messages.
        config: A target and its arguments.
        extra: Further arguments.

    Raises:
        UserError: If the target refuses its arguments.
    """
    try:
        return instantiate(config, **extra)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(f"{key}: {cause or error}") from error
