"""Three encoders, one contract."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from chatsearch.errors import ConfigError, CorruptArtefactError
from chatsearch.model.config import ClipConfig, EfficientNetLite0Config, SceneCnnConfig
from chatsearch.model.efficientnet import STAGES, EfficientNetLite0, convert_published
from chatsearch.model.mapping import Published
from chatsearch.model.scene_cnn import NUM_CELLS, SceneCnn, SceneHeads
from chatsearch.model.vision import VisionEncoder, build_network
from PIL import Image
from transformers import CLIPConfig, CLIPModel

TINY_CLIP = ClipConfig(image_size=32, patch_size=8, hidden_size=16, intermediate_size=32, num_layers=3, num_heads=2)
CONFIGS = [SceneCnnConfig(width=16), EfficientNetLite0Config(), EfficientNetLite0Config(image_size=96), TINY_CLIP]


def picture(width=90, height=60, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.kind}-{config.image_size}")
def test_shapes_are_those_of_the_configuration(config):
    encoder = VisionEncoder(config)
    pixels_B3HW = torch.stack([encoder.preprocess(picture(seed=k)) for k in range(2)])
    assert pixels_B3HW.dtype == torch.uint8
    assert pixels_B3HW.shape == (2, 3, config.image_size, config.image_size)
    cls_BD, tokens_BTE = encoder(pixels_B3HW)
    assert cls_BD.shape == (2, config.feature_dim)
    assert tokens_BTE.shape == (2, config.num_tokens, config.token_dim)
    assert not cls_BD.requires_grad
    assert torch.isfinite(cls_BD).all()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.kind}-{config.image_size}")
def test_a_frozen_encoder_stays_frozen_inside_a_model_that_trains(config):
    encoder = VisionEncoder(config)
    torch.nn.ModuleList([encoder]).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.kind}-{config.image_size}")
def test_weights_travel_and_the_fingerprint_sees_every_change(config):
    encoder = VisionEncoder(config)
    copy = VisionEncoder.from_weights(config, encoder.network.state_dict())
    assert copy.fingerprint == encoder.fingerprint
    pixels_B3HW = encoder.preprocess(picture())[None]
    assert torch.equal(copy(pixels_B3HW).cls_BD, encoder(pixels_B3HW).cls_BD)
    next(copy.parameters()).data.view(-1)[0] += 1e-3
    assert copy.fingerprint != encoder.fingerprint


def test_another_preparation_has_another_id_and_fingerprint():
    weights = build_network(EfficientNetLite0Config()).state_dict()
    whole, center = (
        VisionEncoder.from_weights(EfficientNetLite0Config(crop=crop), weights) for crop in ("whole", "center")
    )
    assert whole.preprocessing_id != center.preprocessing_id
    assert whole.fingerprint != center.fingerprint


def test_the_size_of_a_picture_is_part_of_its_preparation():
    weights = build_network(EfficientNetLite0Config()).state_dict()
    small, large = (VisionEncoder.from_weights(EfficientNetLite0Config(image_size=n), weights) for n in (224, 288))
    assert small.preprocessing_id != large.preprocessing_id
    assert small.fingerprint != large.fingerprint
    assert [encoder.config.num_tokens for encoder in (small, large)] == [49, 81]


@pytest.mark.parametrize("size", [0, 100, 4096])
def test_a_size_that_is_no_multiple_of_32_or_too_large_is_refused(size):
    with pytest.raises(ValueError, match="image_size"):
        EfficientNetLite0Config(image_size=size)


def test_weights_that_do_not_fit_are_refused_by_name():
    weights = dict(build_network(TINY_CLIP).state_dict())
    del weights["transformer.post_layernorm.bias"]
    with pytest.raises(CorruptArtefactError, match="post_layernorm"):
        VisionEncoder.from_weights(TINY_CLIP, weights)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_any_mode_of_picture_is_read_as_rgb(mode):
    encoder = VisionEncoder(TINY_CLIP)
    assert encoder.preprocess(picture().convert(mode)).shape == (3, 32, 32)


@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (32, 32), (31, 97)])
def test_any_size_of_picture_fills_the_square(size):
    for config in (TINY_CLIP, EfficientNetLite0Config(crop="center"), SceneCnnConfig(width=16)):
        pixels_3HW = VisionEncoder(config).preprocess(picture(*size))
        assert pixels_3HW.shape == (3, config.image_size, config.image_size)


def test_a_picture_of_the_right_size_is_not_resampled():
    image = picture(64, 64)
    pixels_3HW = VisionEncoder(SceneCnnConfig(width=16)).preprocess(image)
    assert torch.equal(pixels_3HW.permute(1, 2, 0), torch.from_numpy(np.asarray(image).copy()))


def test_clip_reads_tokens_and_class_token_where_the_paper_does():
    config = CLIPConfig(
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        text_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        projection_dim=8,
    )
    clip = CLIPModel(config).eval()
    state = {f"transformer.{name}": t for name, t in clip.vision_model.state_dict().items()}
    encoder = VisionEncoder.from_weights(TINY_CLIP, state)
    pixels_B3HW = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    scaled_B3HW = encoder.preprocessing.scale(pixels_B3HW)
    with torch.no_grad():
        # CLIP's own projection of our f_CLS is CLIP's image feature: f_CLS is the state before it, after the norm.
        want_BD = clip.get_image_features(pixel_values=scaled_B3HW).pooler_output
        hidden = clip.vision_model(pixel_values=scaled_B3HW, output_hidden_states=True).hidden_states
        got = encoder(pixels_B3HW)
        torch.testing.assert_close(clip.visual_projection(got.cls_BD), want_BD)
        last_layer = clip.vision_model.encoder.layers[-1]
        assert len(hidden) == 4
        torch.testing.assert_close(got.tokens_BTE, hidden[2])
        again_BTE = last_layer(got.tokens_BTE, attention_mask=None)
        torch.testing.assert_close(again_BTE, hidden[3])


def test_a_layer_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="token_layer"):
        ClipConfig(num_layers=2, token_layer=-3)


def published_efficientnet():
    """Random tensors under the published names, batch norms with statistics of their own."""
    ours = EfficientNetLite0().state_dict()
    generator = torch.Generator().manual_seed(0)
    names = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for index in range(sum(stage.repeats for stage in STAGES)):
        parts = ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"), ("_expand_conv", "_bn0")
        for part, (convolution, norm) in zip(("depthwise", "project", "expand"), parts, strict=True):
            names[f"blocks.{index}.{part}"] = (f"_blocks.{index}.{convolution}", f"_blocks.{index}.{norm}")
    published = {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}
    for name, (convolution, norm) in names.items():
        if f"{name}.weight" in ours:
            weight = ours[f"{name}.weight"]
            published[f"{convolution}.weight"] = (
                torch.randn(weight.shape, generator=generator) / weight[0].numel() ** 0.5
            )
            channels = weight.shape[0]
            published[f"{norm}.weight"] = torch.rand(channels, generator=generator) + 0.5
            published[f"{norm}.bias"] = torch.randn(channels, generator=generator)
            published[f"{norm}.running_mean"] = torch.randn(channels, generator=generator)
            published[f"{norm}.running_var"] = torch.rand(channels, generator=generator) + 0.5
            published[f"{norm}.num_batches_tracked"] = torch.tensor(7)
    return published


def checkpoint(tensors):
    return Published(tensors, dict.fromkeys(tensors, "published.pth"))


def test_every_published_tensor_of_the_efficientnet_is_accounted_for():
    published = published_efficientnet()
    converted, mapping = convert_published(checkpoint(published))
    assert mapping.taken.keys() == converted.keys()
    used = {name for taken in mapping.taken.values() for name in taken.sources}
    assert used | mapping.left_out.keys() == published.keys()
    assert not used & mapping.left_out.keys()
    assert mapping.taken["stem.bias"].sources == (
        "_bn0.weight", "_bn0.running_var", "_bn0.bias", "_bn0.running_mean"
    )  # fmt: skip
    assert set(mapping.left_out.values()) <= {
        ("published.pth", "counts of training"),
        ("published.pth", "of the classifier"),
    }


def test_folding_the_batch_norms_changes_nothing():
    published = published_efficientnet()
    encoder = VisionEncoder.from_weights(EfficientNetLite0Config(), convert_published(checkpoint(published))[0])
    scaled_B3HW = torch.randn(1, 3, 224, 224)

    def block(x_BCHW, convolution, norm, *, stride=1, kernel=1, groups=1):
        # TensorFlow's "same" at even sizes: stride 2 pads one more pixel right and below.
        low = (kernel - 1) // 2 if stride == 1 else (kernel - 2) // 2
        high = kernel // 2 if stride == 1 else (kernel - 1) // 2
        x_BCHW = F.pad(x_BCHW, (low, high, low, high))
        x_BCHW = F.conv2d(x_BCHW, published[f"{convolution}.weight"], stride=stride, groups=groups)
        parts = [published[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x_BCHW, *parts, eps=1e-3)

    x_BCHW = F.relu6(block(scaled_B3HW, "_conv_stem", "_bn0", stride=2, kernel=3))
    index = 0
    for stage in STAGES:
        for repeat in range(stage.repeats):
            name, stride, y_BCHW = f"_blocks.{index}", stage.stride if repeat == 0 else 1, x_BCHW
            if stage.expand != 1:
                y_BCHW = F.relu6(block(y_BCHW, f"{name}._expand_conv", f"{name}._bn0"))
            channels = y_BCHW.shape[1]
            y_BCHW = F.relu6(
                block(
                    y_BCHW,
                    f"{name}._depthwise_conv",
                    f"{name}._bn1",
                    stride=stride,
                    kernel=stage.kernel,
                    groups=channels,
                )
            )
            y_BCHW = block(y_BCHW, f"{name}._project_conv", f"{name}._bn2")
            x_BCHW = x_BCHW + y_BCHW if y_BCHW.shape == x_BCHW.shape else y_BCHW
            index += 1
    want_BC77 = F.relu6(block(x_BCHW, "_conv_head", "_bn1"))
    with torch.no_grad():
        cls_BD, tokens_BTE = encoder.network(scaled_B3HW)
    torch.testing.assert_close(tokens_BTE, want_BC77.flatten(2).transpose(1, 2), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(cls_BD, want_BC77.mean((2, 3)), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("change", ["missing", "left over"])
def test_other_weights_are_no_efficientnet(change):
    published = published_efficientnet()
    if change == "missing":
        del published["_blocks.3._bn1.bias"]
    else:
        published["_blocks.3._se_reduce.weight"] = torch.zeros(1)
    with pytest.raises(CorruptArtefactError, match=r"_blocks\.3\."):
        convert_published(checkpoint(published))


def test_scene_heads_read_every_cell_from_f_cls():
    config = SceneCnnConfig(width=16)
    heads = SceneHeads(config, {"kind": 12, "size": 2}, num_backgrounds=8)
    network = SceneCnn(config)
    cls_BD, _ = network(torch.randn(4, 3, 64, 64))
    presence_B9, attributes, background_BK = heads(cls_BD)
    assert presence_B9.shape == (4, NUM_CELLS)
    assert {name: logits.shape for name, logits in attributes.items()} == {"kind": (4, 9, 12), "size": (4, 9, 2)}
    assert background_BK.shape == (4, 8)
    (presence_B9.sum() + background_BK.sum() + sum(a.sum() for a in attributes.values())).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.cells.parameters())


def test_f_cls_keeps_the_cells_of_a_scene_apart():
    """Painting one corner moves that corner's part of f_CLS, before the norm, more than the far one's."""
    config = SceneCnnConfig()
    encoder = VisionEncoder(config)
    encoder.network.norm = torch.nn.Identity()
    blank_3HW = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    painted_3HW = blank_3HW.clone()
    painted_3HW[:, 2:18, 2:18] = 255
    cls_BD, _ = encoder(torch.stack([blank_3HW, painted_3HW]))
    moved_9 = (cls_BD[1] - cls_BD[0])[: 9 * config.cell_dim].reshape(9, -1).norm(dim=1)
    assert moved_9.argmax() == 0
    assert moved_9[8] < 0.05 * moved_9[0]
