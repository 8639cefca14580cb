"""Both retrieval heads in closed form, from frozen states: where training of the heads starts when it is asked to.

The gallery head becomes the leading principal directions of the pictures' features, partly whitened; the query
head the ridge regression from states to the pictures so projected. One pass over some documents gives the moments
that both need, and moments of several workers add up.

Shapes: n pairs, H width of a state, D numbers of f_CLS, d retrieval width.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

from chatsearch.errors import ConfigError

_SMALLEST_VARIANCE = 1e-6
"""Of a direction, relative to the largest: below it a direction is noise and is not blown up further."""


class HeadMoments(NamedTuple):
    """Sums over pairs of a state and the f_CLS of the picture that it asks for, in float64."""

    states_HH: Tensor
    states_H: Tensor
    cross_HD: Tensor
    features_DD: Tensor
    features_D: Tensor
    num_pairs: Tensor

    @classmethod
    def zero(cls, hidden_size: int, feature_dim: int, device: torch.device) -> Self:
        """No pair yet."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        return cls(
            zeros(hidden_size, hidden_size),
            zeros(hidden_size),
            zeros(hidden_size, feature_dim),
            zeros(feature_dim, feature_dim),
            zeros(feature_dim),
            zeros(1),
        )

    def add(self, states_nH: Tensor, features_nD: Tensor) -> None:
        """Count pairs in, in place."""
        states_nH, features_nD = states_nH.double(), features_nD.double()
        self.states_HH.addmm_(states_nH.T, states_nH)
        self.states_H.add_(states_nH.sum(0))
        self.cross_HD.addmm_(states_nH.T, features_nD)
        self.features_DD.addmm_(features_nD.T, features_nD)
        self.features_D.add_(features_nD.sum(0))
        self.num_pairs.add_(len(states_nH))


class FittedHeads(NamedTuple):
    """Weights as linear layers hold them, float32."""

    query_dH: Tensor
    gallery_dD: Tensor


def fit_heads(moments: HeadMoments, retrieval_dim: int, *, penalty: float, whitening: float) -> FittedHeads:
    """Solve for both heads; projected pictures and queries come out with a mean square length of 1.

    The heads have no bias, so the gallery head is made blind to the mean picture: else all pictures would point
    nearly the same way.

    Args:
        moments: of all pairs.
        retrieval_dim: d.
        penalty: of the ridge regression, relative to the variance of each of the state's dimensions.
        whitening: 0 keeps the variances of the principal directions, 1 makes them equal.

    Raises:
        ConfigError: there are fewer pairs than directions wanted.
    """
    num_pairs = float(moments.num_pairs)
    if num_pairs < retrieval_dim:
        raise ConfigError(
            f"{num_pairs:g} pictures that are asked for cannot give {retrieval_dim} directions. Raise heads.num_steps, or set it to 0."
        )
    mean_D = moments.features_D / num_pairs
    unit_D = mean_D / mean_D.norm().clamp(min=torch.finfo(torch.float64).tiny)
    covariance_DD = moments.features_DD / num_pairs - torch.outer(mean_D, mean_D)
    without_mean_DD = torch.eye(len(mean_D), dtype=torch.float64, device=mean_D.device) - torch.outer(unit_D, unit_D)
    covariance_DD = without_mean_DD @ covariance_DD @ without_mean_DD
    variances_D, directions_DD = torch.linalg.eigh(covariance_DD)
    variance_d = variances_D.flip(0)[:retrieval_dim].clamp(min=_SMALLEST_VARIANCE * float(variances_D[-1]))
    gallery_dD = directions_DD.flip(1)[:, :retrieval_dim].T @ without_mean_DD
    gallery_dD = gallery_dD * variance_d[:, None] ** (-0.5 * whitening)
    gallery_dD /= torch.trace(gallery_dD @ covariance_DD @ gallery_dD.T).sqrt()

    # What all states have in common is large and hardly penalised: it stands in for the bias that the head lacks.
    variance_H = moments.states_HH.diagonal() / num_pairs - (moments.states_H / num_pairs).square()
    spread_H = variance_H.clamp(min=_SMALLEST_VARIANCE * float(variance_H.max())).sqrt()
    scaled_HH = moments.states_HH / num_pairs / spread_H / spread_H[:, None]
    scaled_HH.diagonal().add_(penalty)
    wanted_Hd = (moments.cross_HD @ gallery_dD.T) / num_pairs / spread_H[:, None]
    query_Hd = torch.linalg.solve(scaled_HH, wanted_Hd) / spread_H[:, None]
    query_Hd /= (query_Hd * (moments.states_HH @ query_Hd)).sum().div(num_pairs).sqrt()
    return FittedHeads(query_Hd.T.float().contiguous(), gallery_dD.float().contiguous())
