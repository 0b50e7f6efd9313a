"""The density model: coupling blocks that all experts share, and what each expert adds to them."""

from moleflow.flow.coupling import CouplingBlock, CouplingStack
from moleflow.flow.expert import Expert
from moleflow.flow.expert_flow import BASE_POLICIES, ExpertFlow
from moleflow.flow.memory_flow import MemoryFlow
from moleflow.flow.patch_model import PatchModel

__all__ = ["BASE_POLICIES", "CouplingBlock", "CouplingStack", "Expert", "ExpertFlow", "MemoryFlow", "PatchModel"]
