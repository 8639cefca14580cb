"""The paper's size on the meta device: shapes and parameter counts, no memory."""

import torch
from chatsearch.model.config import ClipConfig, SearcherConfig
from chatsearch.model.searcher import ChatSearcher
from chatsearch.model.vision import build_network

CONFIG = SearcherConfig()


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(build):
    with torch.device("meta"):
        return build()


def linear(inputs, outputs):
    return inputs * outputs + outputs


def test_the_language_model_is_vicuna_7b():
    searcher = on_meta(lambda: ChatSearcher(CONFIG))
    control = 2 * 2 * 4096
    layer = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    assert count(searcher.language) - control == 2 * 32000 * 4096 + 32 * layer + 4096 == 6_738_415_616


def test_the_vision_encoder_is_clip_vit_l_14():
    network = on_meta(lambda: build_network(ClipConfig()))
    layer = 4 * linear(1024, 1024) + linear(1024, 4096) + linear(4096, 1024) + 4 * 1024
    embeddings = 1024 + 3 * 14 * 14 * 1024 + 257 * 1024
    assert count(network) == embeddings + 24 * layer + 4 * 1024 == 303_179_776
    assert (CONFIG.vision.num_tokens, CONFIG.vision.token_dim, CONFIG.vision.feature_dim) == (257, 1024, 1024)


def test_the_perceiver_is_blip2s_q_former_for_clip_vit_l():
    searcher = on_meta(lambda: ChatSearcher(CONFIG))
    attention = 4 * linear(768, 768) + 2 * 768
    cross = 2 * linear(768, 768) + 2 * linear(1024, 768) + 2 * 768
    feed_forward = linear(768, 3072) + linear(3072, 768) + 2 * 768
    q_former = 12 * (attention + feed_forward) + 6 * cross + 2 * 768
    assert count(searcher.perceiver) == q_former + 32 * 768 + 2 * 1024 == 101_625_344


def test_projectors_and_heads_have_the_printed_shapes():
    searcher = on_meta(lambda: ChatSearcher(CONFIG))
    assert searcher.input_cls.weight.shape == (4096, 1024)
    assert searcher.input_queries.weight.shape == (4096, 768)
    assert searcher.query_head.weight.shape == (256, 4096)
    assert searcher.gallery_head.weight.shape == (256, 1024)
    assert searcher.perceiver.query_tokens_NW.shape == (32, 768)


def test_one_pass_has_the_right_shapes():
    def run():
        searcher = ChatSearcher(CONFIG)
        row_I, col_I = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
        cls_ID, tokens_ITE = torch.zeros(1, 1024), torch.zeros(1, 257, 1024)
        ids_RL = torch.zeros(2, 40, dtype=torch.int64)
        embeddings_RLH = searcher.input_embeddings(ids_RL, row_I, col_I, cls_ID, tokens_ITE)
        # With a cache: looking for packed documents takes values, which meta tensors do not have.
        hidden_RLH = searcher.decode_step(embeddings_RLH, searcher.new_cache())
        query_Id = searcher.query_embedding(searcher.image_states(hidden_RLH, row_I, col_I))
        return hidden_RLH, searcher.word_logits(hidden_RLH), query_Id

    hidden_RLH, logits_RLV, query_Id = on_meta(run)
    assert hidden_RLH.shape == (2, 40, 4096)
    assert logits_RLV.shape == (2, 40, 32002)
    assert query_Id.shape == (1, 256)
