"""Figures of the experts' diagnostics (``callbacks=diagnostics``)."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from moleflow.visualization.plots import figure, line_styles


def qq_plot(levels: Sequence[float], latents: Mapping[str, Sequence[float]]) -> Figure:
    """Return a QQ plot of the latents over the standard normal distribution, which is the dotted line.

    Args:
        levels: Quantiles of the standard normal distribution.
        latents: Quantiles of the latents at the same probabilities, by expert.
    """
    fig, (ax,) = figure(5.2, 3.8)
    ax.plot(levels, levels, color="#000", linestyle=":", linewidth=1, label="normal")
    for (name, quantiles), style in zip(latents.items(), line_styles(), strict=False):
        ax.plot(levels, quantiles, label=name, markevery=4, **(style | {"markersize": 4}))
    ax.set_xlabel("quantile of the standard normal distribution")
    ax.set_ylabel("quantile of the latents")
    ax.legend(fontsize=7)
    return fig


def tail_maps(frequencies: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Return a map per expert of how often a patch is in the tail of its image, with a common color scale.

    Args:
        frequencies: Percentage of images (h, w), by expert.
    """
    columns = min(5, len(frequencies))
    rows = -(-len(frequencies) // columns)
    fig, axes = figure(1.9 * columns + 0.6, 2.0 * rows, columns, rows)
    highest = max(np.max(grid) for grid in frequencies.values())
    for ax in axes:
        ax.set_axis_off()
    for ax, (name, grid) in zip(axes, frequencies.items(), strict=False):
        image = ax.imshow(np.asarray(grid), cmap="cividis", vmin=0, vmax=highest)
        ax.set_title(name)
    fig.colorbar(image, ax=axes, label="% of images", shrink=0.8)
    return fig


def singular_values(values: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Return the singular values of the experts' LoRA updates relative to the largest one, median over layers.

    Args:
        values: One list of singular values in descending order per layer, by expert.
    """
    fig, (ax,) = figure(5.2, 3.4)
    for (name, layers), style in zip(values.items(), line_styles(), strict=False):
        count = min(len(layer) for layer in layers)
        relative = [np.asarray(layer[:count]) / layer[0] for layer in layers if layer[0] > 0]
        if relative:
            median = np.median(relative, axis=0).clip(1e-6)
            ax.plot(range(1, count + 1), median, label=name, markevery=0.1, **(style | {"markersize": 4}))
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(LogFormatter())  # plain text: save_figure does not draw mathematical text
    ax.set_xlabel("index of the singular value")
    ax.set_ylabel("relative to the largest one")
    if ax.lines:
        ax.legend(fontsize=7)
    return fig


def router_margins(margins: Mapping[str, Sequence[float | None]], tasks: Sequence[str]) -> Figure:
    """Return each category's router margin over tasks; images with a margin below 0 are misrouted.

    Args:
        margins: 5 % quantile of the margins after each task, None before the category's own task; by category.
        tasks: Names of the tasks.
    """
    fig, (ax,) = figure(5.2, 3.4)
    ax.axhline(0, color="#000", linestyle=":", linewidth=1)
    for (name, values), style in zip(margins.items(), line_styles(), strict=False):
        ax.plot(range(len(tasks)), [np.nan if v is None else v for v in values], label=name, **style)
    ax.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right", fontsize=8)
    ax.set_xlabel("after task")
    ax.set_ylabel("margin, 5 % quantile")
    ax.legend(fontsize=7)
    return fig
