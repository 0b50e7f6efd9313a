"""One optimizer step of a later task: moleflow's flow, against FrEIA's blocks with dense permutations.

    python benchmarks/training_step.py --out training_step.json

Depth 6, two DIA blocks, rank 64, batch 16 of 28 x 28 patches with 768 channels; default loss, clipping and optimizer on
both sides. With the same weights, latents, log-determinants and gradients must be equal before a time is printed. Both
sides use the C library's default allocator, or with ``--keep-freed-memory`` its settings in ``train.py`` (see
:mod:`moleflow.training.trainer`). With ``--bf16`` both sides are also timed under autocast, which is faster on
processors with bf16 instructions (a GPU, or a CPU with AVX512-BF16 or AMX). With ``--compile`` moleflow's flow is also
timed after ``torch.compile``, which needs a C++ compiler on a CPU.

``of product rate`` compares a side with the hardware: the operations per second of its products and convolutions,
divided by those of one product of all patches with a D x D matrix in the same run.
"""

from collections.abc import Sequence
from typing import cast

import torch
from freia_form import FreiaForm
from side_by_side import (
    Row,
    assert_close,
    benchmark_parser,
    comparison_rows,
    parse_args,
    print_table,
    time_alternately,
    write_result,
)
from timm.optim import AdamP
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.loss import FlowLoss, patch_nll
from moleflow.training.trainer import retain_freed_memory
from moleflow.utils.random import generator

PRODUCT = "one product"


class Side:
    """Training of one module: loss, gradients, optimizer steps.

    Args:
        name: Name of the side.
        module: Module from patch features (B, H, W, D) to latents and log-determinants.
        parameters: The trained parameters.
        arguments: Further arguments of the module.
    """

    def __init__(self, name: str, module: nn.Module, parameters: list[nn.Parameter], *arguments: str) -> None:
        self.name, self.module, self.parameters = name, module, parameters
        self._arguments = arguments
        self._loss = FlowLoss()
        self._optimizer = AdamP(parameters, lr=3e-4, weight_decay=0.01)

    def compiled(self) -> "Side":
        """Return this side after ``torch.compile``, with the same weights and a new optimizer."""
        module = cast(nn.Module, torch.compile(self.module))
        return Side(f"{self.name}, compiled", module, self.parameters, *self._arguments)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return latents (B, H, W, D) and log-determinants (B, H, W) of patch features (B, H, W, D)."""
        z, logdet = self.module(x, *self._arguments)
        return z, logdet

    def loss(self, x: Tensor) -> Tensor:
        """Return the loss () of patch features (B, H, W, D)."""
        z, logdet = self.forward(x)
        return self._loss(patch_nll(z, logdet), logdet).total

    def gradients(self, x: Tensor) -> Tensor:
        """Set the clipped gradients of the loss and return their norm before clipping."""
        self._optimizer.zero_grad()
        self.loss(x).backward()
        return nn.utils.clip_grad_norm_(self.parameters, 0.5)

    def step(self, x: Tensor) -> None:
        """Take one optimizer step."""
        self.gradients(x)
        self._optimizer.step()

    def operations(self, x: Tensor) -> int:
        """Return the floating-point operations of the products and convolutions of a step, forward and backward."""
        with FlopCounterMode(display=False) as counter:
            self.step(x)
        return counter.get_total_flops()


def new_sides(dim: int, layers: int, rank: int, device: str) -> tuple[Side, Side]:
    """Return both sides before the second task, with the same weights, none of them zero.

    Args:
        dim: Channels D of a patch.
        layers: Coupling blocks.
        rank: Rank of the LoRA updates.
        device: Where they compute.
    """
    flow = ExpertFlow(dim, coupling_layers=layers, lora_rank=rank)
    flow.add_expert("first")
    flow.add_expert("later")
    draw = generator(0, "benchmark", "weights")
    with torch.no_grad():  # a new expert is the identity, so the sides could agree although one omits a part
        for parameter in flow.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=draw)
    flow.to(device).requires_grad_(False)
    other = FreiaForm(flow, "later").to(device)
    trained = flow.trainable_parameters(["later"])
    for parameter in trained:
        parameter.requires_grad_()
    other_trained = [parameter for parameter in other.parameters() if parameter.requires_grad]
    assert sum(p.numel() for p in trained) == sum(p.numel() for p in other_trained)
    return Side("moleflow", flow, trained, "later"), Side("FrEIA form", other, other_trained)


def check(ours: Side, other: Side, x: Tensor) -> Row:
    """Return the differences of two sides with the same weights.

    Args:
        ours: moleflow's flow.
        other: The other side.
        x: Patch features (B, H, W, D).

    Raises:
        AssertionError: If a difference is larger than rounding errors.
    """
    with torch.no_grad():
        (z, logdet), (z_other, logdet_other) = ours.forward(x), other.forward(x)
    norm, norm_other = ours.gradients(x), other.gradients(x)
    return {
        "z": assert_close("z", z, z_other, 2e-4),
        "logdet": assert_close("logdet", logdet, logdet_other, 2e-3),
        "gradient_norm_relative": assert_close("gradient norm", norm / norm_other, torch.ones(()), 1e-4),
    }


def main(args: Sequence[str] | None = None) -> None:
    """Check that both sides agree, time them, and print the table."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--bf16", action="store_true", help="also time both sides under bf16 autocast")
    parser.add_argument("--compile", action="store_true", help="also time moleflow's flow after torch.compile")
    parser.add_argument("--keep-freed-memory", action="store_true", help="retain freed memory, as train.py does")
    parser.add_argument("--batch", type=int, default=16, help="images per step")
    options = parse_args(parser, args)
    retained = options.keep_freed_memory and retain_freed_memory()
    grid, dim, layers, rank, batch = (28, 768, 6, 64, options.batch)
    if options.smoke:
        grid, dim, layers, rank, batch = (4, 32, 2, 4, 2)

    ours, other = new_sides(dim, layers, rank, options.device)
    x = torch.randn(batch, grid, grid, dim, generator=generator(0, "benchmark", "patches")).to(options.device)
    differences = check(ours, other, x)
    sides = [ours, other]
    if options.compile:
        compiled = ours.compiled()
        differences |= {f"compiled_{name}": value for name, value in check(compiled, other, x).items()}
        sides.append(compiled)
    device_type = torch.device(options.device).type
    operations = {side.name: side.operations(x) for side in (ours, other)}
    patches, square = x.flatten(0, -2), torch.eye(dim, device=x.device)
    rows: list[Row] = []
    for precision in ("float32", "bfloat16")[: 1 + options.bf16]:
        with torch.autocast(device_type, torch.bfloat16, enabled=precision == "bfloat16"):
            times = time_alternately(
                {side.name: lambda side=side: side.step(x) for side in sides} | {PRODUCT: lambda: patches @ square},
                options.repeats,
                options.device,
            )
        product_rate = 2 * len(patches) * dim**2 / times.pop(PRODUCT)
        freed_memory = "retained" if retained else "returned"
        for row in comparison_rows(times, other.name, precision=precision, freed_memory=freed_memory):
            count = operations.get(row["form"], operations[ours.name])  # compiled: the same operations
            rate = count / row["seconds"]
            rows.append(row | {"teraflop_per_second": rate / 1e12, "of_product_rate": rate / product_rate})
    formats = {"seconds": ".3f", "ratio": ".2f", "teraflop_per_second": ".3f", "of_product_rate": ".2f"}
    print_table(rows, {"form": "", "precision": "", "freed_memory": "", **formats})
    result = {"shape": [batch, grid, grid, dim], "differences": differences, "rows": rows}
    write_result(options.out, result, options.device)


if __name__ == "__main__":
    main()
