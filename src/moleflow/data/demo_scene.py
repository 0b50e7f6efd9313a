"""What the demo's pictures are made of: coordinates, smooth noise, curves, blobs, and a scene under a light.

All lengths are in half picture widths: the picture spans -1 to 1 both ways, so drawings do not depend on its size.
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
"""A value a pixel (S, S), or three (S, S, 3)."""

_SHADOW = 0.05  # how far an object's shadow falls on what it lies on
_AMBIENT = 0.45


@dataclass(frozen=True)
class Scene:
    """A thing before light falls on it.

    Attributes:
        colour: Its own colour, (S, S, 3) in [0, 1].
        height: Its relief, (S, S).
        cover: Where it is, (S, S): 1 inside, 0 where the backdrop shows, between on the edge.
        backdrop: What it lies on, (S, S, 3).
        gloss: Strength of its highlights.
    """

    colour: Field
    height: Field
    cover: Field
    backdrop: Field
    gloss: float


@dataclass(frozen=True)
class Light:
    """One lamp, far away, and a room that is a little darker on one side.

    Attributes:
        angle: Direction in the picture from which it shines, radians.
        strength: Factor on all brightness.
        slope: Relative brightness gained per unit of length along x and y.
    """

    angle: float
    strength: float
    slope: tuple[float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Light":
        """Draw a lamp at the upper left, as it varies between pictures of one line."""
        slope = rng.uniform(-0.06, 0.06, 2)
        return cls(-2.2 + rng.normal(0, 0.15), rng.uniform(0.94, 1.06), (float(slope[0]), float(slope[1])))


def axes(size: int) -> tuple[Field, Field]:
    """Return x and y of every pixel centre, (S, S) each."""
    line = ((np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1).astype(np.float32)
    x, y = np.meshgrid(line, line)
    return x, y


def noise(rng: np.random.Generator, size: int, across: int, down: int | None = None) -> Field:
    """Return smooth noise of about unit range with so many grains across and down the picture, (S, S)."""
    grains = rng.standard_normal(((down or across) + 2, across + 2)).astype(np.float32)
    smooth = Image.fromarray(grains).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=np.float32)


def step(x: Field, edge: float, soft: float) -> Field:
    """Return 0 well below the edge, 1 well above, and a smooth rise of that width between."""
    t = np.clip((x - edge) / soft + 0.5, 0, 1)
    risen: Field = t * t * (3 - 2 * t)
    return risen


def mix(a: ArrayLike, b: ArrayLike, share: Field) -> Field:
    """Return colour a where the share (S, S) is 0, colour b where it is 1."""
    weight = share[..., None]
    return (np.asarray(a, np.float32) * (1 - weight) + np.asarray(b, np.float32) * weight).astype(np.float32)


def wave(x: Field, harmonic: int) -> Field:
    """Return cos(harmonic x), kept in single precision."""
    height: Field = np.cos(x * np.float32(harmonic))
    return height


def blob(rng: np.random.Generator, centre: tuple[float, float], radius: float, size: int, soft: float = 0.03) -> Field:
    """Return an uneven round patch: 1 inside, 0 outside, (S, S)."""
    x, y = axes(size)
    squeeze, turn = rng.uniform(0.75, 1.3), rng.uniform(0, np.pi)
    dx, dy = x - centre[0], y - centre[1]
    along, aside = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    distance = np.hypot(along * squeeze, aside / squeeze) + radius * 0.22 * noise(rng, size, 10)
    return 1 - step(distance, radius, soft)


def stroke(
    rng: np.random.Generator, centre: tuple[float, float], length: float, size: int, wander: float, angle: float
) -> Field:
    """Return every pixel's distance from a curve through the centre, (S, S).

    Args:
        rng: Draws how it bends.
        centre: Its middle.
        length: From end to end.
        size: Pixels a side.
        wander: How far it bends away from straight, as a part of its length.
        angle: Its direction, radians.
    """
    t = np.linspace(-0.5, 0.5, 25)
    bend = wander * np.sum([rng.normal() * np.sin(np.pi * k * (t + 0.5)) / k for k in (1, 2, 3)], axis=0)
    bend -= bend[12]  # so that it goes through the centre
    px = centre[0] + length * (t * np.cos(angle) - bend * np.sin(angle))
    py = centre[1] + length * (t * np.sin(angle) + bend * np.cos(angle))
    x, y = axes(size)
    nearest = np.full((size, size), np.inf, np.float32)
    for (ax, ay), (bx, by) in pairwise(zip(px.tolist(), py.tolist(), strict=True)):
        dx, dy = bx - ax, by - ay
        part = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - part * dx, y - ay - part * dy))
    return nearest.astype(np.float32)


def lit(scene: Scene, light: Light) -> Field:
    """Return the scene as a camera without noise sees it, (S, S, 3) in [0, 1]."""
    size = scene.height.shape[0]
    down, right = np.gradient(scene.height, 2 / size)
    lamp_x, lamp_y, lamp_z = _unit(math.cos(light.angle), math.sin(light.angle), 1.3)
    half_x, half_y, half_z = _unit(lamp_x, lamp_y, lamp_z + 1)  # halfway between lamp and camera
    length = np.sqrt(1 + right**2 + down**2)
    facing = np.clip((lamp_z - right * lamp_x - down * lamp_y) / length, 0, None)
    shine = np.clip((half_z - right * half_x - down * half_y) / length, 0, 1) ** 24 - half_z**24  # level: none
    thing = scene.colour * (_AMBIENT + (1 - _AMBIENT) * facing / lamp_z)[..., None]
    thing = thing + scene.gloss * shine[..., None]
    shift = (-_SHADOW * size / 2 * lamp_y, -_SHADOW * size / 2 * lamp_x)
    shadow = ndimage.gaussian_filter(ndimage.shift(scene.cover, shift, order=1), 0.02 * size)
    ground = scene.backdrop * (1 - 0.6 * shadow)[..., None]
    x, y = axes(size)
    room = light.strength * (1 + light.slope[0] * x + light.slope[1] * y)
    return np.clip(mix(ground, thing, scene.cover) * room[..., None], 0, 1).astype(np.float32)


def _unit(x: float, y: float, z: float) -> tuple[float, float, float]:
    length = math.sqrt(x * x + y * y + z * z)
    return float(x / length), float(y / length), float(z / length)
