"""What an expert is made of."""

from torch import nn

from moleflow.flow.adapters import InputAdapter
from moleflow.flow.auxiliary import AuxiliaryCoupling
from moleflow.flow.context import SpatialMixer
from moleflow.flow.coupling import CouplingStack


class Expert(nn.Module):
    """What one category (or task) owns.

    Args:
        adapter: Input adapter.
        updates: Low-rank updates of the shared linear layers, one entry a coupling block.
        auxiliary: Auxiliary coupling blocks.
        stack: Coupling blocks of its own in place of the shared ones, under the base policies ``separate`` and
            ``alone``.
        mixer: A learned mixer of its own in place of the shared one, under ``alone``.
    """

    def __init__(
        self,
        adapter: InputAdapter,
        updates: nn.ModuleList,
        auxiliary: list[AuxiliaryCoupling],
        stack: CouplingStack | None = None,
        mixer: SpatialMixer | None = None,
    ) -> None:
        super().__init__()
        self.adapter = adapter
        self.updates = updates
        self.auxiliary = nn.ModuleList(auxiliary)
        self.stack = stack
        self.mixer = mixer
