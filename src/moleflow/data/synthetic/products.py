"""The four products of the synthetic data set: two surfaces and two objects, with variation between images."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from moleflow.data.synthetic.rendering import Field, Scene, axes, mix, noise, step, wave


def _rotate(x: Field, y: Field, angle: float) -> tuple[Field, Field]:
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return c * x + s * y, c * y - s * x


def _surface(color: Field, height: Field, gloss: float) -> Scene:
    return Scene(color, height, np.ones_like(height), np.zeros_like(color), gloss)


def fabric(rng: np.random.Generator, size: int) -> Scene:
    """Draw a twill of indigo warp and cream weft."""
    x, y = _rotate(*axes(size), rng.normal(0, 0.03))
    threads = 15 * rng.uniform(0.97, 1.03)
    u = (x + 0.012 * noise(rng, size, 4)) * threads + rng.uniform(0, 4)
    v = (y + 0.012 * noise(rng, size, 4)) * threads + rng.uniform(0, 4)
    across, down = np.floor(u), np.floor(v)
    warp_above = ((across + down) % 4 < 2).astype(np.float32)
    round_u, round_v = np.sin(np.pi * (u - across)), np.sin(np.pi * (v - down))
    # A thread is thickest along its axis and lower where it passes under its neighbor.
    relief = warp_above * round_u * (0.6 + 0.4 * round_v) + (1 - warp_above) * round_v * (0.6 + 0.4 * round_u)
    fuzz = 1 + 0.07 * noise(rng, size, size // 3) + 0.05 * noise(rng, size, 60)
    color = mix((0.74, 0.72, 0.66), (0.17, 0.26, 0.46), warp_above) * (0.45 + 0.55 * relief * fuzz)[..., None]
    return _surface(color * np.float32(rng.uniform(0.95, 1.05)), 0.016 * relief, 0.05)


def wood(rng: np.random.Generator, size: int) -> Scene:
    """Draw a planed oak board with vertical grain."""
    x, y = _rotate(*axes(size), rng.normal(0, 0.03))
    sway = 0.10 * noise(rng, size, 3, 2) + 0.015 * noise(rng, size, 8, 3)
    ring = (x + sway) * 4.5 + 0.25 * y * rng.normal() + rng.uniform(0, 1)
    # Early wood changes gradually, late wood ends abruptly.
    late = (ring - np.floor(ring)) ** 2.2
    late = late * (1 - step(ring - np.floor(ring), 0.95, 0.1))
    fiber = 0.5 * noise(rng, size, size // 2, 7) + 0.5 * noise(rng, size, 70, 3)
    pores = step(noise(rng, size, size // 2, 14) + 0.6 * late, 1.7, 0.8)
    tone = np.clip(0.18 + 0.6 * late + 0.09 * fiber, 0, 1)
    color = mix((0.84, 0.64, 0.40), (0.55, 0.33, 0.16), tone)
    color = mix(color, (0.30, 0.17, 0.08), 0.55 * pores) * np.float32(rng.uniform(0.95, 1.05))
    return _surface(color, -0.004 * pores - 0.002 * late, 0.08)


def gear(rng: np.random.Generator, size: int) -> Scene:
    """Draw a milled steel gear in a random rotation on dark felt."""
    x, y = axes(size)
    x, y = x - np.float32(rng.normal(0, 0.02)), y - np.float32(rng.normal(0, 0.02))
    rotation, scale = rng.uniform(0, 2 * np.pi), rng.uniform(0.98, 1.02)
    radius, angle = np.hypot(x, y) / np.float32(scale), np.arctan2(y, x) + np.float32(rotation)
    teeth = np.clip(2.2 * wave(angle, 16), -1, 1)
    outside = (radius - (0.70 + 0.075 * teeth)) * 0.8
    bore = 0.17 - radius
    sector = (angle / np.float32(2 * np.pi) * 6) % 1 - 0.5
    spoke = sector * np.float32(2 * np.pi / 6)
    lightening = 0.105 - np.hypot(radius * np.cos(spoke) - 0.40, radius * np.sin(spoke))
    edge = np.maximum(np.maximum(outside, bore), lightening)
    cover = np.clip(0.5 - edge * size / 2, 0, 1)
    bevel = np.clip(-edge / 0.035, 0, 1)
    hub = 1 - step(radius, 0.255, 0.03)
    grooves = 0.05 * np.interp(radius, np.linspace(0, 1.2, 180), rng.standard_normal(180))
    sheen = 0.13 * np.cos(2 * (angle - np.float32(rotation + 0.9 + rng.normal(0, 0.1))))
    gray = (0.60 + grooves + sheen + 0.02 * noise(rng, size, size // 2))[..., None]
    color = np.clip(gray * np.array((0.97, 1.0, 1.04), np.float32), 0, 1)
    height = (0.03 * bevel + 0.025 * hub).astype(np.float32)
    felt = 0.115 + 0.02 * noise(rng, size, size // 2) + 0.012 * noise(rng, size, 40)
    backdrop = np.clip(felt[..., None] * np.array((0.9, 1.0, 1.25), np.float32), 0, 1)
    return Scene(color.astype(np.float32), height, cover.astype(np.float32), backdrop.astype(np.float32), 0.35)


def biscuit(rng: np.random.Generator, size: int) -> Scene:
    """Draw a butter biscuit with a scalloped rim and docking holes on a teal tray."""
    x, y = axes(size)
    x, y = x - np.float32(rng.normal(0, 0.025)), y - np.float32(rng.normal(0, 0.025))
    rotation, scale = rng.normal(0, 0.2), rng.uniform(0.97, 1.03)
    x, y = _rotate(x / np.float32(scale), y / np.float32(scale), rotation)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    rim = 0.72 + 0.028 * wave(angle, 18) + 0.012 * noise(rng, size, 4)
    edge = (radius - rim) * 0.9
    dome = np.sqrt(np.clip(-edge / 0.16, 0, 1))
    groove = np.exp(-(((radius - 0.55) / 0.022) ** 2))
    holes = np.zeros_like(radius)
    for hx, hy in ((0.0, 0.0), *((0.32 * np.cos(a), 0.32 * np.sin(a)) for a in np.arange(6) * np.pi / 3)):
        holes = np.maximum(holes, 1 - step(np.hypot(x - np.float32(hx), y - np.float32(hy)), 0.036, 0.025))
    crumb = 0.5 * noise(rng, size, size // 3) + 0.5 * noise(rng, size, 45)
    baked = np.clip(0.18 + 0.75 * step(radius, 0.68, 0.24) + 0.16 * noise(rng, size, 6) + 0.05 * crumb, 0, 1)
    color = mix((0.90, 0.70, 0.40), (0.68, 0.40, 0.16), baked * np.float32(rng.uniform(0.85, 1.15)))
    color = mix(color, (0.42, 0.23, 0.09), np.clip(0.85 * holes + 0.30 * groove, 0, 1))
    height = 0.07 * dome - 0.012 * groove - 0.03 * holes + 0.0022 * crumb
    tray = 1 + 0.03 * noise(rng, size, size // 2) + 0.04 * noise(rng, size, 5)
    backdrop = np.clip(tray[..., None] * np.array((0.15, 0.40, 0.42), np.float32), 0, 1)
    cover = np.clip(0.5 - edge * size / 2, 0, 1)
    return Scene(color, height.astype(np.float32), cover.astype(np.float32), backdrop.astype(np.float32), 0.06)


PRODUCTS: Mapping[str, Callable[[np.random.Generator, int], Scene]] = MappingProxyType(
    {"fabric": fabric, "wood": wood, "gear": gear, "biscuit": biscuit}
)
"""Functions from (rng, side in pixels) to a scene without defect, by category, in the order of the sequence."""
