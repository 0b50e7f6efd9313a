"""One optimizer step of a later task: this flow against FrEIA's blocks with dense permutations.

    python benchmarks/training_step.py --out training_step.json

Depth 6, two auxiliary blocks, rank 64, batch 16 of 28 x 28 patches of 768 numbers, the default loss, clipping and
optimizer on both sides. From the same weights both must give the same latents, log-determinants and gradients before
anything is timed; then they take turns. Both have the C library's default allocator, or with ``--keep-freed-memory``
what ``train.py`` makes of it (see :mod:`moleflow.training.trainer`). With ``--bf16`` both run once more under autocast, which
pays on a processor that has the instructions (a GPU, or a CPU with AVX512-BF16 or AMX). With ``--compile`` this flow
takes its turn through ``torch.compile`` too (needs a C++ compiler on a CPU).

``of product rate`` says how near the hardware's limit a side comes: the operations of its products and convolutions a
second, over those that one product of all patches with a D x D matrix reaches in the same run.
"""

from collections.abc import Sequence
from typing import cast

import torch
from freia_form import FreiaForm
from side_by_side import Row, agree, compared, parse, parser, show, take_turns, write
from timm.optim import AdamP
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.loss import FlowLoss, patch_nll
from moleflow.training.trainer import retain_freed_memory
from moleflow.utils.random import generator

PRODUCT = "one product"


class Side:
    """One side: a module that maps patches to (z, logdet), its optimizer, and what a step is."""

    def __init__(self, name: str, module: nn.Module, parameters: list[nn.Parameter], *arguments: str) -> None:
        self.name, self.module, self.parameters = name, module, parameters
        self._arguments = arguments  # of the module, besides the patches
        self._loss = FlowLoss()
        self._optimizer = AdamP(parameters, lr=3e-4, weight_decay=0.01)

    def compiled(self) -> "Side":
        """Return the same through ``torch.compile``; the weights are shared, the optimizer is not."""
        module = cast(nn.Module, torch.compile(self.module))
        return Side(f"{self.name}, compiled", module, self.parameters, *self._arguments)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, logdet = self.module(x, *self._arguments)
        return z, logdet

    def loss(self, x: Tensor) -> Tensor:
        z, logdet = self.forward(x)
        return self._loss(patch_nll(z, logdet), logdet).total

    def gradients(self, x: Tensor) -> Tensor:
        """Set the gradients of the loss and return their global norm."""
        self._optimizer.zero_grad()
        self.loss(x).backward()
        return nn.utils.clip_grad_norm_(self.parameters, 0.5)

    def step(self, x: Tensor) -> None:
        self.gradients(x)
        self._optimizer.step()

    def operations(self, x: Tensor) -> int:
        """Return the floating-point operations of a step's products and convolutions, forward and backward."""
        with FlopCounterMode(display=False) as counter:
            self.step(x)
        return counter.get_total_flops()


def sides(dim: int, layers: int, rank: int, device: str) -> tuple[Side, Side]:
    """Return both sides, about to learn a second task from the same weights, none of them zero."""
    flow = ExpertFlow(dim, coupling_layers=layers, lora_rank=rank)
    flow.add_expert("first")
    flow.add_expert("later")
    draw = generator(0, "benchmark", "weights")
    with torch.no_grad():  # a fresh expert is the identity, which hides what a side may have forgotten
        for parameter in flow.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=draw)
    flow.to(device).requires_grad_(False)
    other = FreiaForm(flow, "later").to(device)
    learning = flow.trainable_parameters(["later"])
    for parameter in learning:
        parameter.requires_grad_()
    theirs = [parameter for parameter in other.parameters() if parameter.requires_grad]
    assert sum(p.numel() for p in learning) == sum(p.numel() for p in theirs)
    return Side("moleflow", flow, learning, "later"), Side("FrEIA form", other, theirs)


def check(ours: Side, other: Side, x: Tensor) -> Row:
    """Return how far the sides are apart from the same weights.

    Raises:
        AssertionError: If that is more than rounding.
    """
    with torch.no_grad():
        (z, logdet), (z_other, logdet_other) = ours.forward(x), other.forward(x)
    norm, norm_other = ours.gradients(x), other.gradients(x)
    return {
        "z": agree("z", z, z_other, 2e-4),
        "logdet": agree("logdet", logdet, logdet_other, 2e-3),
        "gradient_norm_relative": agree("norm of the gradient", norm / norm_other, torch.ones(()), 1e-4),
    }


def main(given: Sequence[str] | None = None) -> None:
    """Check, time, print and write."""
    made = parser(__doc__)
    made.add_argument("--bf16", action="store_true", help="also under bf16 autocast")
    made.add_argument("--compile", action="store_true", help="also this flow through torch.compile")
    made.add_argument("--keep-freed-memory", action="store_true", help="as train.py does; for both sides")
    made.add_argument("--batch", type=int, default=16)
    arguments = parse(made, given)
    kept = arguments.keep_freed_memory and retain_freed_memory()
    grid, dim, layers, rank, batch = (28, 768, 6, 64, arguments.batch)
    if arguments.smoke:
        grid, dim, layers, rank, batch = (4, 32, 2, 4, 2)

    ours, other = sides(dim, layers, rank, arguments.device)
    x = torch.randn(batch, grid, grid, dim, generator=generator(0, "benchmark", "patches")).to(arguments.device)
    differences = check(ours, other, x)
    taking_part = [ours, other]
    if arguments.compile:
        compiled = ours.compiled()
        differences |= {f"compiled_{name}": value for name, value in check(compiled, other, x).items()}
        taking_part.append(compiled)
    kind = torch.device(arguments.device).type
    operations = {side.name: side.operations(x) for side in (ours, other)}
    patches, square = x.flatten(0, -2), torch.eye(dim, device=x.device)
    rows: list[Row] = []
    for precision in ("float32", "bfloat16")[: 1 + arguments.bf16]:
        with torch.autocast(kind, torch.bfloat16, enabled=precision == "bfloat16"):
            times = take_turns(
                {side.name: lambda side=side: side.step(x) for side in taking_part}
                | {PRODUCT: lambda: patches @ square},
                arguments.repeats,
                arguments.device,
            )
        rate = 2 * len(patches) * dim**2 / times.pop(PRODUCT)
        for row in compared(times, other.name, precision=precision, freed_memory="kept" if kept else "given back"):
            done = operations.get(row["form"], operations[ours.name]) / row["seconds"]  # compiled: the same, fused
            rows.append(row | {"teraflop_a_second": done / 1e12, "of_product_rate": done / rate})
    formats = {"seconds": ".3f", "ratio": ".2f", "teraflop_a_second": ".3f", "of_product_rate": ".2f"}
    show(rows, {"form": "", "precision": "", "freed_memory": "", **formats})
    write(
        arguments.out, {"shape": [batch, grid, grid, dim], "differences": differences, "rows": rows}, arguments.device
    )


if __name__ == "__main__":
    main()
