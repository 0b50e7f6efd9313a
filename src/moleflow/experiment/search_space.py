"""Search space of Optuna from Hydra's override syntax."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Sweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from moleflow.runs.naming import override_key
from moleflow.utils.errors import UserError


class SearchSpace:
    """Keys with several values, and the overrides that all trials share.

    Args:
        overrides: Hydra overrides. Of several with one key the last is used.
        config_loader: Loader of the options that ``glob(*)`` stands for.

    Attributes:
        distributions: The distribution of each key with several values.
        fixed: The other overrides.

    Raises:
        UserError: If no key has several values, or a range is invalid.
    """

    def __init__(self, overrides: Sequence[str], config_loader: ConfigLoader | None = None) -> None:
        parsed = OverridesParser.create(config_loader).parse_overrides(list(overrides))
        by_key = {override_key(override.get_key_element()): override for override in parsed}
        self.distributions = {key: _distribution(o) for key, o in by_key.items() if o.is_sweep_override()}
        self.fixed = [str(o.input_line) for o in by_key.values() if not o.is_sweep_override()]
        self._elements = {key: by_key[key].get_key_element() for key in self.distributions}
        if not self.distributions:
            raise UserError(
                "A search needs a key with several values. Add one such as "
                "'optimizer.lr=tag(log, interval(1e-4, 1e-3))', or hydra.sweeper.params of a file in conf/sweep."
            )

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """Return the overrides of a trial.

        Args:
            values: The value of each key with several values.
        """
        return [f"{self._elements[key]}={value}" for key, value in values.items()] + self.fixed

    def examples(self) -> Iterator[dict[str, Any]]:
        """Yield values of all keys in which each option of each choice occurs."""
        choices = {
            key: distribution.choices if isinstance(distribution, CategoricalDistribution) else (distribution.low,)
            for key, distribution in self.distributions.items()
        }
        first = {key: options[0] for key, options in choices.items()}
        yield first
        for key, options in choices.items():
            yield from (first | {key: option} for option in options[1:])

    def grid(self) -> dict[str, list[Any]]:
        """Return all values of each key.

        Raises:
            UserError: If a key has an interval, which has no finite number of values.
        """
        return {key: _grid_values(key, distribution) for key, distribution in self.distributions.items()}

    def describe(self) -> dict[str, str]:
        """Return a text about the distribution of each key."""
        return {key: str(distribution) for key, distribution in self.distributions.items()}


def _distribution(override: Override) -> BaseDistribution:
    line, value = override.input_line, override.value()
    tags = value.tags if isinstance(value, Sweep) else set[str]()
    log = "log" in tags
    if tags - {"log"} or (log and override.is_choice_sweep()):
        raise UserError(f"{line}: the only tag is log, of an interval or of a range of step 1.")
    if override.is_choice_sweep():
        return CategoricalDistribution(list(dict.fromkeys(override.sweep_string_iterator())))
    try:
        if isinstance(value, IntervalSweep):
            start, end = (cast(Any, bound) for bound in (value.start, value.end))  # whole numbers after int(...)
            if isinstance(start, int) and isinstance(end, int):
                return IntDistribution(start, end, log)
            return FloatDistribution(start, end, log)
        values = sorted(cast(Any, override.sweep_iterator()))
        step = values[1] - values[0] if len(values) > 1 else 1
        kind = IntDistribution if all(isinstance(v, int) for v in values) else FloatDistribution
        return kind(values[0], values[-1], log, None if log and kind is FloatDistribution else step)
    except (ValueError, IndexError) as error:
        raise UserError(f"{line} has no valid range: {error}") from error


def _grid_values(key: str, distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    step = cast(Any, distribution).step
    if isinstance(distribution, IntDistribution | FloatDistribution) and step is not None:
        count = round((distribution.high - distribution.low) / step) + 1
        return [distribution.low + i * step for i in range(count)]
    raise UserError(
        f"hydra/sweeper/sampler=grid has no values for {key}, which is an interval. Use choice(...) or range(...)."
    )
