"""Replay: a few pictures of earlier tasks are learned again with each new one."""

from collections.abc import Mapping

import torch
from torch import Tensor

from moleflow.continual.strategy import Strategy
from moleflow.errors import UserError
from moleflow.flow import PatchModel
from moleflow.randomness import generator


class Replay(Strategy):
    """Remembers the patch grids of some training pictures, at most ``pictures`` in all.

    Every expert has an equal share, which shrinks as more arrive: the first ones of its own random order, so a picture
    that was dropped never comes back. In a task the remembered pictures are gone through as often as makes them, all
    together, as many as the task's own.

    Reference: Rolnick et al., "Experience Replay for Continual Learning", NeurIPS 2019 (half of the steps); Rebuffi et
    al., "iCaRL", CVPR 2017 (equal shares of a fixed budget).

    Args:
        pictures: The budget, at least 1. A picture has H W D numbers.
        seed: Seed of the choice of pictures.

    Raises:
        UserError: If the budget is too small.
    """

    protects = True

    def __init__(self, pictures: int, seed: int = 0) -> None:
        if pictures < 1:
            raise UserError(f"continual.pictures={pictures} must be at least 1.")
        self.pictures = pictures
        self.seed = seed
        self.memory: dict[str, Tensor] = {}

    def rehearsal(self, pictures: int) -> dict[str, Tensor]:
        """Return the remembered grids, repeated; see :meth:`Strategy.rehearsal`."""
        return {
            name: grids[torch.arange(max(share, len(grids)), device=grids.device) % len(grids)]
            for (name, grids), share in zip(self.memory.items(), shares(pictures, len(self.memory)), strict=True)
        }

    def learned(self, model: PatchModel, features: Mapping[str, Tensor]) -> None:
        """Remember pictures of the task and forget some of earlier ones; see :meth:`Strategy.learned`."""
        for name, grids in features.items():
            order = torch.randperm(len(grids), generator=generator(self.seed, "replay", name))[: self.pictures]
            self.memory[name] = grids[order.to(grids.device)]
        budget = shares(self.pictures, len(self.memory))
        kept = {name: grids[:share].clone() for (name, grids), share in zip(self.memory.items(), budget, strict=True)}
        self.memory = {name: grids for name, grids in kept.items() if len(grids)}

    def state(self) -> dict[str, Tensor]:
        """Return the remembered grids; see :meth:`Strategy.state`."""
        return {f"{i:05d}.{name}": grids for i, (name, grids) in enumerate(self.memory.items())}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`state` returned."""
        self.memory = {key.split(".", 1)[1]: state[key] for key in sorted(state)}  # files do not keep the order


def shares(total: int, parts: int) -> list[int]:
    """Return ``total`` cut into that many nearly equal whole numbers, larger ones first."""
    return [-(-(total - i) // parts) if i < total else 0 for i in range(parts)]
