"""Which parameters learn at which rate."""

import pytest
from chatsearch.testing.tiny import tiny_config, tiny_searcher
from chatsearch.train.config import OptimiserConfig, TrainConfig
from chatsearch.train.deepspeed_engine import parameter_groups


@pytest.mark.parametrize("tied", [True, False])
def test_control_tokens_have_a_rate_apart_from_the_words(tied):
    model = tiny_config()
    model = model.replace(language=model.language.replace(tie_embeddings=tied))
    searcher = tiny_searcher(model)
    config = TrainConfig(
        model=model, optimiser=OptimiserConfig(multipliers={"control_tokens": 30.0, "query_head": 3.0})
    )
    groups = {group["multiplier"]: group["params"] for group in parameter_groups(searcher, config)}
    rows = {id(searcher.language.control_2H), id(searcher.language.control_head_2H)}
    assert {id(parameter) for parameter in groups[30.0]} == rows
    assert len(groups[30.0]) == (1 if tied else 2)
    assert groups[3.0] == [searcher.query_head.weight]
    assert sum(len(group) for group in groups.values()) == len(list(searcher.parameters()))
