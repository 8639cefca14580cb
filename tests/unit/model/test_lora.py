"""Adapters: nothing at first, alone in learning, and gone without a trace once merged."""

from __future__ import annotations

import pytest
import torch
from chatsearch.model.config import LoraConfig
from chatsearch.model.lora import AdaptedLinear, add_adapters, merge_adapters
from chatsearch.model.searcher import ChatSearcher
from chatsearch.testing.tiny import tiny_config, tiny_searcher

LORA = LoraConfig(rank=4, alpha=8.0)


def logits(searcher: ChatSearcher) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    vision = searcher.config.vision
    hidden_RLH = searcher(
        torch.randint(0, searcher.config.language.vocab_size + 2, (2, 24), generator=generator),
        torch.arange(24).expand(2, -1),
        image_row_I=torch.tensor([0, 1]),
        image_col_I=torch.tensor([5, 9]),
        cls_ID=torch.randn(2, vision.feature_dim, generator=generator),
        tokens_ITE=torch.randn(2, vision.num_tokens, vision.token_dim, generator=generator),
    )
    return searcher.word_logits(hidden_RLH)


def drawn(lora: LoraConfig = LORA) -> ChatSearcher:
    """A searcher whose adapters say something, as after some training."""
    searcher = tiny_searcher()
    add_adapters(searcher, lora, seed=0)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in searcher.named_parameters():
        if "lora_up" in name:
            parameter.data.normal_(std=0.3, generator=generator)
    return searcher


def test_an_adapter_is_the_papers_formula() -> None:
    searcher = drawn()
    layer = searcher.language.decoder.layers[1].mlp.down_proj
    assert isinstance(layer, AdaptedLinear)
    x_nI = torch.randn(7, layer.in_features)
    wanted = layer.weight.double() + 8.0 / 4 * layer.lora_up_Or.double() @ layer.lora_down_rI.double()
    assert torch.allclose(layer(x_nI).double(), x_nI.double() @ wanted.T, atol=1e-5)


def test_before_the_first_update_nothing_is_changed() -> None:
    plain, adapted = tiny_searcher(), tiny_searcher()
    add_adapters(adapted, LORA, seed=0)
    assert torch.equal(logits(plain), logits(adapted))


def test_merged_is_unmerged_and_looks_as_if_it_had_never_been() -> None:
    searcher, plain = drawn(), tiny_searcher()
    before = logits(searcher)
    merge_adapters(searcher)
    assert torch.allclose(logits(searcher), before, atol=1e-5)
    assert not torch.allclose(logits(plain), before, atol=1e-2)
    shapes = {name: tensor.shape for name, tensor in searcher.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in plain.state_dict().items()}
    assert str(searcher) == str(plain)


def test_only_adapters_control_tokens_and_the_new_parts_get_gradients() -> None:
    searcher = drawn()
    frozen = {name: p.clone() for name, p in searcher.named_parameters() if not p.requires_grad}
    logits(searcher).square().sum().backward()
    learning = {name for name, p in searcher.named_parameters() if p.grad is not None}
    within = {name for name in learning if name.startswith("language.")}
    assert all("lora_" in name or "control_" in name for name in within)
    assert len([name for name in within if "lora_" in name]) == 2 * 7 * 2  # A and B, matrices, layers
    assert {"language.control_2H", "language.control_head_2H"} <= within
    assert {"input_cls.weight", "perceiver.query_tokens_NW"} <= learning
    assert frozen.keys() == {name for name in tiny_searcher().state_dict() if name.startswith("language.")} - {
        "language.control_2H",
        "language.control_head_2H",
    }


@pytest.mark.parametrize("projections", [("q_proj", "v_proj"), ("gate_proj",)])
def test_only_the_matrices_named_are_adapted(projections: tuple) -> None:
    searcher = tiny_searcher()
    add_adapters(searcher, LORA.replace(projections=projections), seed=0)
    adapted = {name.rsplit(".", 1)[1] for name, m in searcher.named_modules() if isinstance(m, AdaptedLinear)}
    assert adapted == set(projections)


def test_rank_0_adds_and_freezes_nothing() -> None:
    searcher = tiny_searcher()
    add_adapters(searcher, LoraConfig(), seed=0)
    assert not any(isinstance(module, AdaptedLinear) for module in searcher.modules())
    assert all(parameter.requires_grad for parameter in searcher.parameters())


def test_every_rank_of_a_run_draws_the_same_and_another_seed_another() -> None:
    def downs(seed: int) -> torch.Tensor:
        torch.rand(seed + 1)  # the global random state plays no part
        searcher = tiny_searcher(tiny_config())
        add_adapters(searcher, LORA, seed=seed)
        return torch.cat([p.flatten() for name, p in searcher.named_parameters() if "lora_down" in name])

    assert torch.equal(downs(0), downs(0))
    assert not torch.equal(downs(0), downs(1))
