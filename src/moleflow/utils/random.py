"""Named random generators.

Every draw has its own generator, a pure function of the seed and of the draw's name. Two runs that differ in one
component therefore share all other draws, and a resumed run makes the same draws as an uninterrupted one.
"""

import hashlib

import torch


def generator(seed: int, purpose: str, *index: int | str) -> torch.Generator:
    """Return the CPU generator of one named draw.

    Args:
        seed: The run's seed.
        purpose: Name of the draw, for example ``"permutation"`` or ``"order"``.
        index: Index of the draw among those of the same name, for example task and epoch.
    """
    words = "/".join(str(part) for part in (seed, purpose, *index))
    digest = hashlib.sha256(words.encode(errors="surrogateescape")).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
