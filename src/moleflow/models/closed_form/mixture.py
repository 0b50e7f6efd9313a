"""Mixture of Student's t distributions or Gaussians around memory-bank patches.

With few images and many kinds of patches, neither a single Gaussian (one kind of patch) nor a plain memory bank (equal
weight for all directions) is adequate. Here each memory-bank patch is the center of a component, and all components
share one covariance: that of the differences between a patch and its center, measured between different images.

Components are Gaussians or Student's t distributions, as in Peel and McLachlan, "Robust mixture modelling using the t
distribution", Statistics and Computing 2000. At the large distances of defects, the score under a t distribution grows
with the logarithm of the distance, so a single patch does not dominate its neighbors when scores are averaged into maps
and image scores. The likelihood is that of the nearest component only, as in hard-assignment clustering. The covariance
is shrunk as in Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", J.
Multivariate Analysis 2004. The memory bank is selected as in Roth et al., "Towards Total Recall in Industrial Anomaly
Detection", CVPR 2022. Yao et al., "ResAD", NeurIPS 2024, also model the density of the difference to the nearest normal
patch.
"""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from moleflow.models.batches import Batches, chunks
from moleflow.models.closed_form.base import ClosedFormModel
from moleflow.models.dynamic_buffers import DynamicBuffers
from moleflow.models.flow.spatial_mixer import MeanBlur
from moleflow.models.memory_bank import (
    MemoryBank,
    build_memory_bank,
    extend_memory_bank,
    memory_bank_rules,
    nearest_neighbors,
    own_image_exclusion,
)
from moleflow.models.tensor_rule import TensorRule
from moleflow.utils.errors import check_range
from moleflow.utils.random import generator

_KERNEL = 3
_IMAGES = 8  # images that are blurred at a time
_ROWS = 8192  # patches of a sum of squares that are in float64 at a time


class MixtureModel(ClosedFormModel):
    """Mixture of components around memory-bank patches with one covariance.

    The score of a patch is its negative log-likelihood in nats.

    A patch x is blurred, then mapped to ``y = (x - m) U L^-p``, with the mean m of the training patches, the R largest
    eigenvalues L (R, R) of their covariance and the eigenvectors U (D, R). Distances between y are Euclidean at p = 0
    and Mahalanobis at p = 1/2. Let c be the nearest of K memory-bank patches y, S the covariance of y - c over the
    training patches, each compared with the memory-bank patches of other images, and ``d^2 = (y - c)^T S^-1 (y - c)``.
    Then ``score = e(d^2) + ln K + ln det S / 2 + p ln det L``. A Gaussian has ``e = (d^2 + R ln 2 pi) / 2``. Student's
    t with v degrees of freedom and the scale S has ``e = (v + R) / 2 ln(1 + d^2 / v) + R / 2 ln(v pi) + ln G(v / 2) -
    ln G((v + R) / 2)`` with the gamma function G. For R = D this is the density of x, otherwise that of its projection
    onto the principal directions. The constant Jacobian of the blur is omitted.

    Args:
        dim: Channels D of a patch.
        size: Components K per expert; all patches, if an expert has fewer.
        rank: Number R of principal directions, at most D.
        whitening_power: p, in [0, 1/2].
        blur: Strength of the initial blur, in [0, 1]; see :class:`moleflow.models.flow.spatial_mixer.MeanBlur`.
        shrinkage: Shrinkage of both covariances toward their mean eigenvalue, in (0, 1].
        degrees_of_freedom: Degrees of freedom v of Student's t, greater than 0; None for Gaussians.
        seed: Seed of the draws.

    Raises:
        UserError: If an argument is outside its range.

    Examples:
        >>> import torch
        >>> model = MixtureModel(dim=8, size=20, degrees_of_freedom=10.0)
        >>> _ = model.add_expert("bottle")
        >>> model.fit("bottle", [torch.randn(6, 4, 5, 8)])
        >>> model.patch_scores(torch.randn(2, 4, 5, 8), "bottle").shape
        torch.Size([2, 4, 5])
    """

    def __init__(
        self,
        dim: int,
        size: int = 3000,
        rank: int = 256,
        whitening_power: float = 0.25,
        blur: float = 0.2,
        shrinkage: float = 0.01,
        degrees_of_freedom: float | None = None,
        seed: int = 0,
    ) -> None:
        directions = min(rank, dim)
        super().__init__(
            mean=TensorRule((dim,)),
            metric=TensorRule((dim, directions)),
            whitening=TensorRule((directions, directions)),
            offset=TensorRule((1,)),
            **memory_bank_rules(directions),
        )
        check_range("model.size", size, 1)
        check_range("model.rank", rank, 1, hint=f"The embedding dimension {dim} selects all directions.")
        hint = "Distances are Euclidean at 0 and Mahalanobis at 0.5."
        check_range("model.whitening_power", whitening_power, 0, 0.5, hint)
        check_range("model.blur", blur, 0, 1, "It is the weight of the neighborhood mean.")
        check_range("model.shrinkage", shrinkage, 0, 1, low_open=True)
        if degrees_of_freedom is not None:
            hint = "Use null for Gaussian components."
            check_range("model.degrees_of_freedom", degrees_of_freedom, 0, hint=hint, low_open=True, high_open=True)
        self.dim = dim
        self.size = size
        self.rank = directions
        self.whitening_power = whitening_power
        self.blur = MeanBlur(_KERNEL, blur)
        self.shrinkage = shrinkage
        self.degrees_of_freedom = degrees_of_freedom
        self.seed = seed

    @property
    def excludes_training_images(self) -> bool:
        """Whether patches of a training image can be excluded; mean and covariances still include them."""
        return True

    def compute(self, name: str, features: Iterable[Tensor], image_ids: Tensor) -> dict[str, Tensor]:
        """Return the tensors of an expert.

        Args:
            name: Name of the expert.
            features: Training patches of the expert in batches (B, H, W, D), iterated several times.
            image_ids: (N,) index of the training image that each entry of the concatenated batches shows.

        Returns:
            ``mean`` (D,), ``metric`` (D, R), ``patches`` (K, R), ``image_ids`` (K,), ``whitening`` (R, R) and
            ``offset`` (1,).
        """
        blurred = Batches(lambda: self._blurred(features))
        sums, count = zip(*((x.flatten(0, 2).double().sum(0), x[..., 0].numel()) for x in blurred), strict=True)
        mean = torch.stack(sums).sum(0) / sum(count)
        root, metric_logdet = self._inverse_root(
            (x.flatten(0, 2).double() - mean for x in blurred), self.whitening_power
        )
        projection = {"mean": mean.float(), "metric": root.float()}
        y = Batches(lambda: ((x - projection["mean"]) @ projection["metric"] for x in blurred))
        draw = generator(self.seed, "memory", name)
        memory_bank = build_memory_bank(y, self.size, "k_center_greedy", draw, image_ids)
        whitening, covariance_logdet = self._inverse_root(_differences(y, image_ids, memory_bank), 0.5)
        offset = math.log(len(memory_bank.patches)) + self._energy_constant() + metric_logdet + covariance_logdet
        component = {"whitening": whitening.float(), "offset": offset.float().reshape(1)}
        return projection | memory_bank._asdict() | component

    def compute_update(
        self, name: str, source: DynamicBuffers, features: Iterable[Tensor], image_ids: Tensor, former: int
    ) -> dict[str, Tensor]:
        """Return the tensors of the former images with further components, as many per image.

        Projection, covariance and offset remain, so that no score of a patch rises. The scores are then
        log-likelihoods up to a constant, the logarithm of the growth of K.

        Args:
            name: Name of the expert.
            source: The expert of the former images.
            features: Patches of the further images in batches (B, H, W, D), iterated several times.
            image_ids: (N,) index from 0 of the further image that each entry of the concatenated batches shows.
            former: Number of grids of the former images, images times augmentations.
        """
        state = dict(source.named_buffers())
        y = Batches(lambda: ((x - state["mean"]) @ state["metric"] for x in self._blurred(features)))
        draw = generator(self.seed, "memory", name)
        return (
            state | extend_memory_bank(MemoryBank.of(source), y, former, "k_center_greedy", draw, image_ids)._asdict()
        )

    def patch_scores(self, x: Tensor, name: str, image_ids: Tensor | None = None) -> Tensor:
        """Return the negative log-likelihood of each patch in nats, (B, H, W) float32.

        Args:
            x: Patch features (B, H, W, D) from the backbone.
            name: Name of the expert.
            image_ids: (B,) indices of training images, whose own memory-bank patches are excluded; None for all other
                images.
        """
        expert = self.expert(name)
        centers = expert.get_buffer("patches")
        y = ((self.blur(x.float()) - expert.get_buffer("mean")) @ expert.get_buffer("metric")).flatten(0, 2)
        exclusion = own_image_exclusion(x, image_ids, expert.get_buffer("image_ids"))
        neighbors = nearest_neighbors(y, centers, exclusion)
        white = (y - centers[neighbors.indices]) @ expert.get_buffer("whitening")
        scores = self._energy(white.square().sum(1), white.shape[1]) + expert.get_buffer("offset")
        return scores.reshape(x.shape[:3])

    def _energy(self, squared_distances: Tensor, rank: int) -> Tensor:
        """Return the part of e that depends on the squared distances (N,)."""
        if self.degrees_of_freedom is None:
            return 0.5 * squared_distances
        return 0.5 * (self.degrees_of_freedom + rank) * torch.log1p(squared_distances / self.degrees_of_freedom)

    def _energy_constant(self) -> float:
        """Return the part of e that does not depend on the distances."""
        if self.degrees_of_freedom is None:
            return 0.5 * self.rank * math.log(2 * math.pi)
        half, whole = 0.5 * self.degrees_of_freedom, 0.5 * (self.degrees_of_freedom + self.rank)
        return 0.5 * self.rank * math.log(self.degrees_of_freedom * math.pi) + math.lgamma(half) - math.lgamma(whole)

    def _blurred(self, features: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the blurred grids (n, H, W, D) of a few images at a time.

        They are computed again in each pass, because all of them together need too much memory.
        """
        for batch in features:
            for part in torch.split(batch, _IMAGES):
                yield self.blur(part.float())

    def _inverse_root(self, parts: Iterable[Tensor], power: float) -> tuple[Tensor, Tensor]:
        """Return ``U L^-p`` and ``p ln det L`` of the shrunk second moments of all rows.

        Args:
            parts: Rows (n, C), float64, C at least R.
            power: p.

        Returns:
            Tensors (C, R) and (), float64.
        """
        total, count = torch.zeros(()), 0
        for rows in parts:
            total, count = total.to(rows) + rows.T @ rows, count + len(rows)
        moments = total / count
        level = moments.diagonal().mean() + torch.finfo(torch.float32).tiny  # positive even if all patches are equal
        eye = torch.eye(len(moments), dtype=rows.dtype, device=rows.device)
        values, vectors = torch.linalg.eigh((1 - self.shrinkage) * moments + self.shrinkage * level * eye)
        vectors, values = vectors[:, -self.rank :], values[-self.rank :]  # eigenvalues are in ascending order
        return vectors * values**-power, power * values.log().sum()


def _differences(y: Iterable[Tensor], image_ids: Tensor, memory_bank: MemoryBank) -> Iterator[Tensor]:
    """Yield differences (n, R), float64, between patches and their nearest memory-bank patches of other images.

    Args:
        y: Mapped patch grids in batches (B, H, W, R).
        image_ids: (N,) index of the training image of each grid.
        memory_bank: The memory bank.
    """
    start = 0
    for chunk in chunks(y):
        exclusion = own_image_exclusion(chunk, image_ids[start : start + len(chunk)], memory_bank.image_ids)
        assert exclusion is not None
        start += len(chunk)
        for rows, ids in zip(*(torch.split(each, _ROWS) for each in (chunk.flatten(0, 2), exclusion[0])), strict=True):
            neighbors = nearest_neighbors(rows, memory_bank.patches, (ids, exclusion[1]))
            yield (rows - memory_bank.patches[neighbors.indices]).double()
        del chunk, rows  # before the next chunk is read
