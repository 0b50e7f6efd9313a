"""The demo's defects: each takes a scene and gives it back damaged in one place."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from scipy import ndimage

from moleflow.data.demo_scene import Field, Scene, axes, blob, mix, noise, step, stroke

Colour = tuple[float, float, float]
Defect = Callable[[Scene, np.random.Generator], Scene]


def _pixel(rng: np.random.Generator, allowed: Field) -> tuple[float, float]:
    """Draw the (x, y) of an allowed pixel, away from the picture's border."""
    size = allowed.shape[0]
    x, y = axes(size)
    places = np.flatnonzero((allowed > 0.5) & (np.abs(x) < 0.8) & (np.abs(y) < 0.8))
    place = int(places[rng.integers(len(places))])
    return float(x.flat[place]), float(y.flat[place])


def _inside(scene: Scene, rng: np.random.Generator) -> tuple[float, float]:
    depth = max(1, scene.cover.shape[0] // 32)
    return _pixel(rng, ndimage.binary_erosion(scene.cover > 0.5, iterations=depth, border_value=1).astype(np.float32))


def _rim(scene: Scene, rng: np.random.Generator) -> tuple[float, float]:
    """Draw a pixel on the object's outer edge; holes inside it do not count."""
    solid = ndimage.binary_fill_holes(scene.cover > 0.5)
    return _pixel(rng, (solid & ~ndimage.binary_erosion(solid, iterations=2)).astype(np.float32))


def scratch(colour: Colour, width: float, wander: float = 0.06) -> Defect:
    """A long furrow with bare material of that colour in it."""

    def apply(scene: Scene, rng: np.random.Generator) -> Scene:
        size = scene.cover.shape[0]
        away = stroke(rng, _inside(scene, rng), rng.uniform(0.7, 1.1), size, wander, rng.uniform(0, np.pi))
        furrow = 1 - step(away + 0.3 * width * noise(rng, size, 40), width * rng.uniform(0.8, 1.2), width * 0.6)
        return replace(scene, colour=mix(scene.colour, colour, 0.85 * furrow), height=scene.height - 0.02 * furrow)

    return apply


def stain(tint: Colour, strength: float) -> Defect:
    """An uneven patch that multiplies the colour with a tint; its edge is darker, as liquid dries."""

    def apply(scene: Scene, rng: np.random.Generator) -> Scene:
        size = scene.cover.shape[0]
        patch = blob(rng, _inside(scene, rng), rng.uniform(0.18, 0.28), size, soft=0.05)
        share = strength * patch * np.clip(0.85 + 0.12 * noise(rng, size, 24), 0, 1) + 0.6 * patch * (1 - patch)
        return replace(scene, colour=mix(scene.colour, scene.colour * np.array(tint, np.float32), np.clip(share, 0, 1)))

    return apply


def hole(depth_colour: Colour) -> Defect:
    """A deep round hole with a raised, frayed lip."""

    def apply(scene: Scene, rng: np.random.Generator) -> Scene:
        size = scene.cover.shape[0]
        centre, radius, shape = _inside(scene, rng), rng.uniform(0.12, 0.18), rng.integers(2**32)
        pit = blob(np.random.default_rng(shape), centre, radius, size)
        lip = blob(np.random.default_rng(shape), centre, radius * 1.35, size, soft=0.08)
        colour = mix(scene.colour * (1 + 0.15 * lip[..., None]), depth_colour, 0.97 * pit)
        return replace(scene, colour=colour, height=scene.height * (1 - pit) + 0.03 * lip - 0.05 * pit)

    return apply


def missing() -> Defect:
    """A piece broken out of the object's rim: the backdrop shows, the break is steep."""

    def apply(scene: Scene, rng: np.random.Generator) -> Scene:
        size = scene.cover.shape[0]
        bite = blob(rng, _rim(scene, rng), rng.uniform(0.19, 0.26), size, soft=3 / size)
        slope = ndimage.gaussian_filter(1 - bite, size / 128)
        cover = scene.cover * (1 - bite)
        parts, count = ndimage.label(cover > 0)
        largest = 1 + int(np.argmax(ndimage.sum_labels(cover, parts, np.arange(1, count + 1))))
        return replace(scene, cover=cover * (parts == largest), height=scene.height * slope)  # splinters fall off too

    return apply


def deformed(reach: float, push: float, rim: bool) -> Defect:
    """Material pushed aside: everything within reach of one place is drawn out in one direction."""

    def apply(scene: Scene, rng: np.random.Generator) -> Scene:
        size = scene.cover.shape[0]
        cx, cy = _rim(scene, rng) if rim else _inside(scene, rng)
        x, y = axes(size)
        pull = np.exp(-((((x - cx) ** 2 + (y - cy) ** 2) / (2 * reach**2)) ** 2)) * push * size / 2
        # On a rim the push goes inward, give or take, so that it shows; elsewhere anywhere.
        angle = np.arctan2(-cy, -cx) + rng.normal(0, 0.5) if rim else rng.uniform(0, 2 * np.pi)
        rows, columns = np.mgrid[:size, :size].astype(np.float32)
        at = [rows - pull * np.sin(angle), columns - pull * np.cos(angle)]

        def moved(field: Field) -> Field:
            shifted: Field = ndimage.map_coordinates(field, at, order=1, mode="nearest")
            return shifted

        colour = np.stack([moved(scene.colour[..., channel]) for channel in range(3)], axis=-1)
        return replace(scene, colour=colour, height=moved(scene.height), cover=moved(scene.cover))

    return apply


def contamination(colour: Colour, width: float, gloss: float) -> Defect:
    """A foreign fibre and a crumb of the same stuff, lying on top."""

    def apply(scene: Scene, rng: np.random.Generator) -> Scene:
        size = scene.cover.shape[0]
        centre = _inside(scene, rng)
        away = stroke(rng, centre, rng.uniform(0.5, 0.8), size, 0.25, rng.uniform(0, np.pi))
        crumb = blob(rng, centre, rng.uniform(0.09, 0.13), size)
        lying = np.maximum(1 - step(away, width, width * 0.5), crumb)
        thick = np.maximum(np.sqrt(np.clip(1 - (away / width) ** 2, 0, 1)) * width, 0.05 * crumb)
        shadow = ndimage.gaussian_filter(ndimage.shift(lying, size / 90, order=1), size / 128)
        under = scene.colour * (1 - 0.4 * shadow)[..., None]
        on_top = np.array(colour, np.float32) * (1 + gloss * noise(rng, size, 50))[..., None]
        return replace(
            scene,
            colour=mix(under, np.clip(on_top, 0, 1), lying),
            height=scene.height * (1 - lying) + (thick + scene.height.mean()) * lying,
            cover=np.maximum(scene.cover, lying),
        )

    return apply


DEFECTS: Mapping[str, Mapping[str, Defect]] = MappingProxyType(
    {
        "fabric": {
            "contamination": contamination((0.62, 0.30, 0.26), 0.034, 0.10),
            "deformed": deformed(0.22, 0.15, rim=False),
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
            "deformed": deformed(0.17, 0.17, rim=True),
            "missing": missing(),
            "scratch": scratch((0.22, 0.21, 0.21), 0.034),
            "stain": stain((0.72, 0.36, 0.16), 0.9),
        },
        "biscuit": {
            "contamination": contamination((0.22, 0.32, 0.62), 0.032, 0.10),
            "crack": scratch((0.30, 0.16, 0.07), 0.030, wander=0.16),
            "missing": missing(),
            "stain": stain((0.30, 0.22, 0.20), 0.9),
        },
    }
)
"""The defects of each category, by the name of their folder."""
