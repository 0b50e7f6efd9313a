"""Randomness with names: every draw comes from its own generator.

A generator is a pure function of (seed, purpose, place), so two runs that differ in one component share every other
draw, and a run that was stopped continues with the draws it would have had.
"""

import hashlib

import torch


def generator(seed: int, purpose: str, *place: int | str) -> torch.Generator:
    """Return the CPU generator that belongs to one purpose at one place.

    Args:
        seed: The run's seed.
        purpose: What is drawn, for example ``"permutation"`` or ``"order"``.
        place: Where it is drawn, for example task and epoch.
    """
    words = "/".join(str(part) for part in (seed, purpose, *place))
    digest = hashlib.sha256(words.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
