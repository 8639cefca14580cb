"""The closed-form start of the retrieval heads against what it must recover."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from chatsearch.errors import ConfigError
from chatsearch.model.head_fit import HeadMoments, fit_heads

H, D, d, N = 24, 16, 6, 400


def pairs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """States that tell of the picture asked for linearly, with noise; features far from the origin, as after a ReLU."""
    generator = torch.Generator().manual_seed(seed)
    hidden_Nd = torch.randn(N, d, generator=generator)
    features_ND = 5.0 + hidden_Nd @ torch.randn(d, D, generator=generator)
    states_NH = 3.0 + hidden_Nd @ torch.randn(d, H, generator=generator) + 0.01 * torch.randn(N, H, generator=generator)
    return states_NH, features_ND


def moments_of(states_NH: torch.Tensor, features_ND: torch.Tensor, batch_size: int = 64) -> HeadMoments:
    moments = HeadMoments.zero(H, D, torch.device("cpu"))
    for states_nH, features_nD in zip(states_NH.split(batch_size), features_ND.split(batch_size), strict=True):
        moments.add(states_nH, features_nD)
    return moments


def recall_at_1(states_NH: torch.Tensor, features_ND: torch.Tensor, heads) -> float:
    queries_Nd = F.normalize(states_NH @ heads.query_dH.T, dim=1)
    gallery_Nd = F.normalize(features_ND @ heads.gallery_dD.T, dim=1)
    return float(((queries_Nd @ gallery_Nd.T).argmax(1) == torch.arange(len(states_NH))).float().mean())


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_linearly_told_pictures_are_found(whitening: float) -> None:
    states_NH, features_ND = pairs()
    heads = fit_heads(moments_of(states_NH, features_ND), d, penalty=1e-6, whitening=whitening)
    assert recall_at_1(states_NH, features_ND, heads) > 0.97


def test_the_gallery_head_is_blind_to_the_mean_picture_and_of_unit_mean_square() -> None:
    states_NH, features_ND = pairs()
    heads = fit_heads(moments_of(states_NH, features_ND), d, penalty=1e-3, whitening=0.5)
    mean_D = features_ND.mean(0)
    torch.testing.assert_close(heads.gallery_dD @ mean_D, torch.zeros(d), atol=1e-4, rtol=0)
    projected_Nd = (features_ND - mean_D) @ heads.gallery_dD.T
    assert projected_Nd.square().sum(1).mean().item() == pytest.approx(1.0, rel=1e-3)
    assert (states_NH @ heads.query_dH.T).square().sum(1).mean().item() == pytest.approx(1.0, rel=1e-3)


def test_full_whitening_makes_the_directions_equal() -> None:
    states_NH, features_ND = pairs()
    heads = fit_heads(moments_of(states_NH, features_ND), d, penalty=1e-3, whitening=1.0)
    variances_d = ((features_ND - features_ND.mean(0)) @ heads.gallery_dD.T).var(0, correction=0)
    torch.testing.assert_close(variances_d, torch.full((d,), 1 / d), rtol=0.02, atol=0)


def test_moments_of_shares_add_up_to_those_of_the_whole() -> None:
    states_NH, features_ND = pairs()
    whole = fit_heads(moments_of(states_NH, features_ND), d, penalty=1e-3, whitening=0.5)
    halves = [moments_of(states_NH[part::2], features_ND[part::2]) for part in range(2)]
    together = HeadMoments(*(a + b for a, b in zip(*halves, strict=True)))
    for ours, theirs in zip(fit_heads(together, d, penalty=1e-3, whitening=0.5), whole, strict=True):
        torch.testing.assert_close(ours.abs(), theirs.abs(), rtol=1e-5, atol=1e-6)


def test_too_few_pairs_are_refused() -> None:
    states_NH, features_ND = pairs()
    with pytest.raises(ConfigError, match=r"5 pictures .* cannot give 6 directions. Raise heads.num_steps"):
        fit_heads(moments_of(states_NH[:5], features_ND[:5]), d, penalty=1e-3, whitening=0.5)
