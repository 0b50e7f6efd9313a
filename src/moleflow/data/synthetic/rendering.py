"""Rendering primitives: coordinates, smooth noise, curves, blobs, and a scene lit by a lamp.

All lengths are in half image widths: an image spans -1 to 1 along both axes, so that a drawing does not depend on its
size. S is the image's side in pixels.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy import ndimage

Field = NDArray[np.floating[Any]]
"""One value per pixel (S, S), or three (S, S, 3)."""

_SHADOW = 0.05  # length of an object's shadow on the backdrop
_AMBIENT = 0.45  # share of the light that comes from all directions


@dataclass(frozen=True)
class Scene:
    """An object on a backdrop, before lighting.

    Attributes:
        color: Color of the object's surface, (S, S, 3) in [0, 1].
        height: Relief of the object, (S, S).
        cover: Opacity of the object, (S, S): 1 inside, 0 outside, between on the edge.
        backdrop: Color of the backdrop, (S, S, 3) in [0, 1].
        gloss: Strength of the object's highlights.
    """

    color: Field
    height: Field
    cover: Field
    backdrop: Field
    gloss: float


@dataclass(frozen=True)
class Light:
    """A distant lamp, and a linear brightness gradient of the room.

    Attributes:
        angle: Direction of the lamp in the image plane, in radians.
        strength: Factor on all brightness.
        slope: Relative increase of brightness per unit of length along x and y.
    """

    angle: float
    strength: float
    slope: tuple[float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Light":
        """Draw a lamp at the upper left, with the variation between images of one production line."""
        slope = rng.uniform(-0.06, 0.06, 2)
        return cls(-2.2 + rng.normal(0, 0.15), rng.uniform(0.94, 1.06), (float(slope[0]), float(slope[1])))


def axes(size: int) -> tuple[Field, Field]:
    """Return the coordinates x and y of all pixel centers, (S, S) each."""
    line = ((np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1).astype(np.float32)
    x, y = np.meshgrid(line, line)
    return x, y


def noise(rng: np.random.Generator, size: int, across: int, down: int | None = None) -> Field:
    """Return smooth noise (S, S) of about unit amplitude, with ``across`` by ``down`` grains over the image."""
    grains = rng.standard_normal(((down or across) + 2, across + 2)).astype(np.float32)
    smooth = Image.fromarray(grains).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=np.float32)


def step(x: Field, edge: float, soft: float) -> Field:
    """Return a smooth step from 0 to 1 at ``edge``, of width ``soft`` (smoothstep)."""
    t = np.clip((x - edge) / soft + 0.5, 0, 1)
    smooth: Field = t * t * (3 - 2 * t)
    return smooth


def mix(a: ArrayLike, b: ArrayLike, share: Field) -> Field:
    """Interpolate between color a at share (S, S) 0 and color b at share 1."""
    weight = share[..., None]
    return (np.asarray(a, np.float32) * (1 - weight) + np.asarray(b, np.float32) * weight).astype(np.float32)


def wave(x: Field, harmonic: int) -> Field:
    """Return cos(harmonic x) in single precision."""
    height: Field = np.cos(x * np.float32(harmonic))
    return height


def blob(rng: np.random.Generator, center: tuple[float, float], radius: float, size: int, soft: float = 0.03) -> Field:
    """Return an uneven round patch (S, S): 1 inside, 0 outside."""
    x, y = axes(size)
    squeeze, angle = rng.uniform(0.75, 1.3), rng.uniform(0, np.pi)
    dx, dy = x - center[0], y - center[1]
    along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    distance = np.hypot(along * squeeze, across / squeeze) + radius * 0.22 * noise(rng, size, 10)
    return 1 - step(distance, radius, soft)


def stroke(
    rng: np.random.Generator, center: tuple[float, float], length: float, size: int, wander: float, angle: float
) -> Field:
    """Return the distance (S, S) of all pixels from a random curve.

    Args:
        rng: Source of the curve's shape.
        center: Midpoint of the curve.
        length: Distance between its ends.
        size: Side of the image in pixels.
        wander: Deviation from a straight line, as a share of the length.
        angle: Direction of the curve, in radians.
    """
    t = np.linspace(-0.5, 0.5, 25)
    bend = wander * np.sum([rng.normal() * np.sin(np.pi * k * (t + 0.5)) / k for k in (1, 2, 3)], axis=0)
    bend -= bend[12]  # so that the curve passes through the center
    px = center[0] + length * (t * np.cos(angle) - bend * np.sin(angle))
    py = center[1] + length * (t * np.sin(angle) + bend * np.cos(angle))
    x, y = axes(size)
    nearest = np.full((size, size), np.inf, np.float32)
    for (ax, ay), (bx, by) in pairwise(zip(px.tolist(), py.tolist(), strict=True)):
        dx, dy = bx - ax, by - ay
        part = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - part * dx, y - ay - part * dy))
    return nearest.astype(np.float32)


def render(scene: Scene, light: Light) -> Field:
    """Return the image (S, S, 3) in [0, 1] of a lit scene, without camera noise."""
    size = scene.height.shape[0]
    down, right = np.gradient(scene.height, 2 / size)
    lamp_x, lamp_y, lamp_z = _unit(math.cos(light.angle), math.sin(light.angle), 1.3)
    half_x, half_y, half_z = _unit(lamp_x, lamp_y, lamp_z + 1)  # half vector of the Blinn-Phong model
    length = np.sqrt(1 + right**2 + down**2)
    facing = np.clip((lamp_z - right * lamp_x - down * lamp_y) / length, 0, None)
    shine = np.clip((half_z - right * half_x - down * half_y) / length, 0, 1) ** 24 - half_z**24  # 0 on a level surface
    surface = scene.color * (_AMBIENT + (1 - _AMBIENT) * facing / lamp_z)[..., None]
    surface = surface + scene.gloss * shine[..., None]
    shift = (-_SHADOW * size / 2 * lamp_y, -_SHADOW * size / 2 * lamp_x)
    shadow = ndimage.gaussian_filter(ndimage.shift(scene.cover, shift, order=1), 0.02 * size)
    ground = scene.backdrop * (1 - 0.6 * shadow)[..., None]
    x, y = axes(size)
    room = light.strength * (1 + light.slope[0] * x + light.slope[1] * y)
    return np.clip(mix(ground, surface, scene.cover) * room[..., None], 0, 1).astype(np.float32)


def _unit(x: float, y: float, z: float) -> tuple[float, float, float]:
    length = math.sqrt(x * x + y * y + z * z)
    return float(x / length), float(y / length), float(z / length)
