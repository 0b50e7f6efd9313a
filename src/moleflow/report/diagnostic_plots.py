"""Plots of what the callback ``diagnostics`` found in a run's experts."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from moleflow.report.plots import figure, styles


def qq_plot(levels: Sequence[float], latents: Mapping[str, Sequence[float]]) -> Figure:
    """Return latent quantiles over those of a standard normal, which is the dotted line.

    Args:
        levels: Quantiles of a standard normal.
        latents: By expert the latents' quantiles there.
    """
    made, (ax,) = figure(5.2, 3.8)
    ax.plot(levels, levels, color="#000", linestyle=":", linewidth=1, label="normal")
    for (name, quantiles), style in zip(latents.items(), styles(), strict=False):
        ax.plot(levels, quantiles, label=name, markevery=4, **(style | {"markersize": 4}))
    ax.set_xlabel("quantile of a standard normal")
    ax.set_ylabel("quantile of the latents")
    ax.legend(fontsize=7)
    return made


def tail_maps(frequencies: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Return for each expert how often a patch is in its picture's tail, all on one scale.

    Args:
        frequencies: By expert a grid of shares in percent.
    """
    columns = min(5, len(frequencies))
    rows = -(-len(frequencies) // columns)
    made, axes = figure(1.9 * columns + 0.6, 2.0 * rows, columns, rows)
    highest = max(np.max(grid) for grid in frequencies.values())
    for ax in axes:
        ax.set_axis_off()
    for ax, (name, grid) in zip(axes, frequencies.items(), strict=False):
        drawn = ax.imshow(np.asarray(grid), cmap="cividis", vmin=0, vmax=highest)
        ax.set_title(name)
    made.colorbar(drawn, ax=axes, label="% of pictures", shrink=0.8)
    return made


def spectra(values: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Return the singular values of the experts' updates over the largest one: the median over layers.

    Args:
        values: By expert one falling list of singular values a layer.
    """
    made, (ax,) = figure(5.2, 3.4)
    for (name, layers), style in zip(values.items(), styles(), strict=False):
        shared = min(len(layer) for layer in layers)
        relative = [np.asarray(layer[:shared]) / layer[0] for layer in layers if layer[0] > 0]
        if relative:
            middle = np.median(relative, axis=0).clip(1e-6)
            ax.plot(range(1, shared + 1), middle, label=name, markevery=0.1, **(style | {"markersize": 4}))
    ax.set_yscale("log")
    ax.set_xlabel("number of the singular value")
    ax.set_ylabel("over the largest one")
    if ax.lines:
        ax.legend(fontsize=7)
    return made


def margins(low: Mapping[str, Sequence[float | None]], tasks: Sequence[str]) -> Figure:
    """Return each category's margin as further tasks arrive; below the line pictures are misrouted.

    Args:
        low: By category the margin after each task, None before it arrived.
        tasks: Names of the tasks.
    """
    made, (ax,) = figure(5.2, 3.4)
    ax.axhline(0, color="#000", linestyle=":", linewidth=1)
    for (name, values), style in zip(low.items(), styles(), strict=False):
        ax.plot(range(len(tasks)), [np.nan if v is None else v for v in values], label=name, **style)
    ax.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right", fontsize=8)
    ax.set_xlabel("after task")
    ax.set_ylabel("margin, 5 % quantile")
    ax.legend(fontsize=7)
    return made
