"""Defects of the synthetic data set: functions from a scene to the same scene with a defect at a random place."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from scipy import ndimage

from moleflow.data.synthetic.rendering import Field, Scene, axes, blob, mix, noise, step, stroke

Color = tuple[float, float, float]
Defect = Callable[[Scene, np.random.Generator], Scene]


def _pixel(rng: np.random.Generator, allowed: Field) -> tuple[float, float]:
    """Draw the coordinates (x, y) of an allowed pixel that is not near the image's border."""
    size = allowed.shape[0]
    x, y = axes(size)
    places = np.flatnonzero((allowed > 0.5) & (np.abs(x) < 0.8) & (np.abs(y) < 0.8))
    place = int(places[rng.integers(len(places))])
    return float(x.flat[place]), float(y.flat[place])


def _inside(scene: Scene, rng: np.random.Generator) -> tuple[float, float]:
    """Draw the coordinates of a pixel inside the object, at some distance from its edge."""
    depth = max(1, scene.cover.shape[0] // 32)
    return _pixel(rng, ndimage.binary_erosion(scene.cover > 0.5, iterations=depth, border_value=1).astype(np.float32))


def _rim(scene: Scene, rng: np.random.Generator) -> tuple[float, float]:
    """Draw the coordinates of a pixel on the object's outer edge, not on the edge of a hole in it."""
    solid = ndimage.binary_fill_holes(scene.cover > 0.5)
    return _pixel(rng, (solid & ~ndimage.binary_erosion(solid, iterations=2)).astype(np.float32))


def scratch(color: Color, width: float, wander: float = 0.06) -> Defect:
    """Return a defect: a long furrow that exposes material of a color."""

    def apply(scene: Scene, rng: np.random.Generator) -> Scene:
        size = scene.cover.shape[0]
        distance = stroke(rng, _inside(scene, rng), rng.uniform(0.7, 1.1), size, wander, rng.uniform(0, np.pi))
        furrow = 1 - step(distance + 0.3 * width * noise(rng, size, 40), width * rng.uniform(0.8, 1.2), width * 0.6)
        return replace(scene, color=mix(scene.color, color, 0.85 * furrow), height=scene.height - 0.02 * furrow)

    return apply


def stain(tint: Color, strength: float) -> Defect:
    """Return a defect: an uneven patch that multiplies the color by a tint, with a darker edge as of a dried liquid."""

    def apply(scene: Scene, rng: np.random.Generator) -> Scene:
        size = scene.cover.shape[0]
        patch = blob(rng, _inside(scene, rng), rng.uniform(0.18, 0.28), size, soft=0.05)
        share = strength * patch * np.clip(0.85 + 0.12 * noise(rng, size, 24), 0, 1) + 0.6 * patch * (1 - patch)
        return replace(scene, color=mix(scene.color, scene.color * np.array(tint, np.float32), np.clip(share, 0, 1)))

    return apply


def hole(depth_color: Color) -> Defect:
    """Return a defect: a deep round hole with a raised, frayed lip."""

    def apply(scene: Scene, rng: np.random.Generator) -> Scene:
        size = scene.cover.shape[0]
        center, radius, shape = _inside(scene, rng), rng.uniform(0.12, 0.18), rng.integers(2**32)
        pit = blob(np.random.default_rng(shape), center, radius, size)
        lip = blob(np.random.default_rng(shape), center, radius * 1.35, size, soft=0.08)
        color = mix(scene.color * (1 + 0.15 * lip[..., None]), depth_color, 0.97 * pit)
        return replace(scene, color=color, height=scene.height * (1 - pit) + 0.03 * lip - 0.05 * pit)

    return apply


def missing_piece() -> Defect:
    """Return a defect: a piece broken out of the object's rim, which exposes the backdrop."""

    def apply(scene: Scene, rng: np.random.Generator) -> Scene:
        size = scene.cover.shape[0]
        bite = blob(rng, _rim(scene, rng), rng.uniform(0.19, 0.26), size, soft=3 / size)
        slope = ndimage.gaussian_filter(1 - bite, size / 128)
        cover = scene.cover * (1 - bite)
        parts, count = ndimage.label(cover > 0)
        largest = 1 + int(np.argmax(ndimage.sum_labels(cover, parts, np.arange(1, count + 1))))
        return replace(scene, cover=cover * (parts == largest), height=scene.height * slope)  # without splinters

    return apply


def deformation(reach: float, push: float, rim: bool) -> Defect:
    """Return a defect: material within ``reach`` of a place is displaced by ``push`` in one direction."""

    def apply(scene: Scene, rng: np.random.Generator) -> Scene:
        size = scene.cover.shape[0]
        cx, cy = _rim(scene, rng) if rim else _inside(scene, rng)
        x, y = axes(size)
        pull = np.exp(-((((x - cx) ** 2 + (y - cy) ** 2) / (2 * reach**2)) ** 2)) * push * size / 2
        # On a rim, the displacement is roughly inward, so that it is visible; elsewhere, in any direction.
        angle = np.arctan2(-cy, -cx) + rng.normal(0, 0.5) if rim else rng.uniform(0, 2 * np.pi)
        rows, columns = np.mgrid[:size, :size].astype(np.float32)
        source = [rows - pull * np.sin(angle), columns - pull * np.cos(angle)]

        def displace(field: Field) -> Field:
            displaced: Field = ndimage.map_coordinates(field, source, order=1, mode="nearest")
            return displaced

        color = np.stack([displace(scene.color[..., channel]) for channel in range(3)], axis=-1)
        return replace(scene, color=color, height=displace(scene.height), cover=displace(scene.cover))

    return apply


def contamination(color: Color, width: float, gloss: float) -> Defect:
    """Return a defect: a foreign fiber and a crumb of the same material on top of the object."""

    def apply(scene: Scene, rng: np.random.Generator) -> Scene:
        size = scene.cover.shape[0]
        center = _inside(scene, rng)
        distance = stroke(rng, center, rng.uniform(0.5, 0.8), size, 0.25, rng.uniform(0, np.pi))
        crumb = blob(rng, center, rng.uniform(0.09, 0.13), size)
        foreign = np.maximum(1 - step(distance, width, width * 0.5), crumb)
        thickness = np.maximum(np.sqrt(np.clip(1 - (distance / width) ** 2, 0, 1)) * width, 0.05 * crumb)
        shadow = ndimage.gaussian_filter(ndimage.shift(foreign, size / 90, order=1), size / 128)
        under = scene.color * (1 - 0.4 * shadow)[..., None]
        on_top = np.array(color, np.float32) * (1 + gloss * noise(rng, size, 50))[..., None]
        return replace(
            scene,
            color=mix(under, np.clip(on_top, 0, 1), foreign),
            height=scene.height * (1 - foreign) + (thickness + scene.height.mean()) * foreign,
            cover=np.maximum(scene.cover, foreign),
        )

    return apply


DEFECTS: Mapping[str, Mapping[str, Defect]] = MappingProxyType(
    {
        "fabric": {
            "contamination": contamination((0.62, 0.30, 0.26), 0.034, 0.10),
            "deformed": deformation(0.22, 0.15, rim=False),
            "hole": hole((0.03, 0.03, 0.04)),
            "stain": stain((0.55, 0.38, 0.22), 0.9),
        },
        "wood": {
            "contamination": contamination((0.86, 0.84, 0.80), 0.034, 0.06),
            "hole": hole((0.07, 0.04, 0.02)),
            "scratch": scratch((0.95, 0.84, 0.66), 0.032),
            "stain": stain((0.35, 0.38, 0.52), 0.85),
        },
        "gear": {
            "deformed": deformation(0.17, 0.17, rim=True),
            "missing": missing_piece(),
            "scratch": scratch((0.22, 0.21, 0.21), 0.034),
            "stain": stain((0.72, 0.36, 0.16), 0.9),
        },
        "biscuit": {
            "contamination": contamination((0.22, 0.32, 0.62), 0.032, 0.10),
            "crack": scratch((0.30, 0.16, 0.07), 0.030, wander=0.16),
            "missing": missing_piece(),
            "stain": stain((0.30, 0.22, 0.20), 0.9),
        },
    }
)
"""The defects of each category by the name of their folder."""
