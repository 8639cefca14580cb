"""Stages of the ``train`` job. The paper's printed values are in ``paper_align``, ``paper_instruct`` and ``paper_conversation``."""

from __future__ import annotations

from chatsearch.data.config import StreamConfig
from chatsearch.model.config import HeadsConfig, ObjectiveConfig
from chatsearch.train.config import OptimiserConfig, TrainConfig
from chatsearch.types import Kind

from jobs.recipes import model
from jobs.recipes.places import PAPER, SMALL, TINY, Places


def tiny_align(places: Places = TINY) -> TrainConfig:
    """Scenes, stage 1: two CPU workers, ZeRO 1."""
    return TrainConfig(
        stage="align",
        weights=places.weights,
        features=places.train_features,
        model=model.tiny(),
        # Nothing tells which picture is wanted where none has been described.
        objective=ObjectiveConfig(queue_size=1000, skip_first_images=True),
        streams=(
            StreamConfig(shards=places.align_shards, per_step=32, kinds=(Kind.CAPTION,)),
            StreamConfig(shards=places.align_shards, per_step=8, kinds=(Kind.INTERLEAVED,)),
        ),
        steps=50,
        heads=HeadsConfig(num_steps=50),
        scale_image_inputs=True,
        max_length=256,
        optimiser=OptimiserConfig(learning_rate=1e-3, warmup_steps=20),
        precision="mixed",
        zero_stage=1,
        num_workers=2,
        checkpoint_every=100,
        output=places.align_model,
    )


def tiny_instruct(places: Places = TINY) -> TrainConfig:
    """Scenes, stage 2: loss on the answers, ZeRO 2, from stage 1."""
    return tiny_align(places).replace(
        stage="instruct",
        weights=places.align_model,
        streams=(StreamConfig(shards=places.instruct_shards, per_step=40),),
        steps=500,
        answer_only=True,
        zero_stage=2,
        output=places.instruct_model,
    )


def small_align(places: Places = SMALL) -> TrainConfig:
    """Photographs, stage 1: heads in closed form, then the decoder with a low rate and the new parts with a higher one."""
    return TrainConfig(
        stage="align",
        weights=places.weights,
        features=places.train_features,
        model=model.small(),
        objective=ObjectiveConfig(queue_size=1000),
        streams=(StreamConfig(shards=places.align_shards, per_step=80, kinds=(Kind.CAPTION,), caption_first=0.8),),
        steps=180,
        heads=HeadsConfig(num_steps=150),
        max_length=256,
        answer_only=True,
        optimiser=OptimiserConfig(
            learning_rate=1e-4,
            warmup_steps=20,
            multipliers={
                "control_tokens": 10.0,
                "perceiver": 3.0,
                "input_cls": 3.0,
                "input_queries": 3.0,
                "query_head": 3.0,
                "gallery_head": 3.0,
                "log_scale": 3.0,
            },
        ),
        precision="mixed",
        zero_stage=1,
        num_workers=2,
        checkpoint_every=100,
        output=places.align_model,
    )


def small_instruct(places: Places = SMALL) -> TrainConfig:
    """Photographs, stage 2: requests and questions from templates beside captions as before, ZeRO 2, from stage 1."""
    align = small_align(places)
    return align.replace(
        stage="instruct",
        weights=places.align_model,
        streams=(StreamConfig(shards=places.instruct_shards, per_step=40), align.streams[0].replace(per_step=40)),
        # After 60 steps, at this rate or a third of it, words are still ahead of [IMG] where a request wants a picture.
        steps=110,
        optimiser=align.optimiser.replace(warmup_steps=6),
        zero_stage=2,
        output=places.instruct_model,
    )


def small_photos() -> TrainConfig:
    """Photographs, retrieval alone: name a captioned folder with --set data=FOLDER and --set output=BUNDLE; the rest is made.

    A few thousand pictures are soon known by heart. What holds against it: captions that lose words, and a temperature high
    enough that no picture has to stand alone. Then the words' own vectors may learn too. Captions are only asked with, never
    answered: the layers that made words are gone, and learning to make them again would lead every step for hundreds of steps.
    """
    align = small_align()
    captions = align.streams[0].replace(shards="", caption_first=1.0, word_dropout=0.15, end_at_image=True)
    return align.replace(
        weights="",
        features="",
        model=align.model.replace(tau0=0.15, freeze_words=False),
        # The loss of [IMG] itself begins at 40 nats, and may not lead where that of the pictures should.
        objective=align.objective.replace(image_weight=100.0),
        streams=(captions,),
        steps=600,
        optimiser=align.optimiser.replace(betas=(0.9, 0.98)),
        # Two workers would exchange as many bytes of gradients as they compute with.
        num_workers=1,
        threads_per_worker=2,
        cpus_per_worker=1.5,
        output="runs/photographs/model",
    )


def paper_align(places: Places = PAPER) -> TrainConfig:
    """Stage 1 as published: CC3M and mmc4-core, 200,000 steps of 256 + 64 on 8 A100."""
    return TrainConfig(
        stage="align",
        weights=places.weights,
        model=model.paper(),
        objective=ObjectiveConfig(queue_size=1000),
        streams=(
            StreamConfig(shards=places.at("shards-cc3m"), per_step=256, kinds=(Kind.CAPTION,)),
            StreamConfig(shards=places.at("shards-mmc4"), per_step=64, kinds=(Kind.INTERLEAVED,)),
        ),
        steps=200_000,
        max_length=512,
        answer_only=False,
        optimiser=OptimiserConfig(
            learning_rate=2e-5, warmup_steps=6000, betas=(0.9, 0.999), weight_decay=0.0, max_grad_norm=1.0
        ),
        precision="bf16",
        zero_stage=1,
        activation_checkpointing=True,
        num_workers=8,
        use_gpu=True,
        autoscaling=True,
        cpus_per_worker=8.0,
        threads_per_worker=8,
        checkpoint_every=2000,
        output=places.align_model,
    )


def paper_instruct(places: Places = PAPER) -> TrainConfig:
    """Stage 2 as published: LLaVA-150k, 10k edits and 10k ChatSearch dialogues, 10,000 steps of 64."""
    align = paper_align(places)
    return align.replace(
        stage="instruct",
        weights=places.align_model,
        streams=(StreamConfig(shards=places.instruct_shards, per_step=64),),
        steps=10_000,
        answer_only=True,
        optimiser=align.optimiser.replace(learning_rate=2e-6, warmup_steps=300),
        zero_stage=2,
        checkpoint_every=500,
        output=places.instruct_model,
    )


def paper_conversation(places: Places = PAPER) -> TrainConfig:
    """Stage 3, for the conversation scores of Table 5: one epoch of LLaVA-665K as LLaVA-1.5 is tuned, 5,198 steps of 128."""
    align = paper_align(places)
    return align.replace(
        stage="conversation",
        weights=places.instruct_model,
        streams=(StreamConfig(shards=places.at("shards-conversation"), per_step=128),),
        steps=5_198,  # of 665,298 dialogues
        max_length=2048,
        answer_only=True,
        optimiser=align.optimiser.replace(learning_rate=2e-5, warmup_steps=156),
        zero_stage=2,
        checkpoint_every=500,
        output=places.at("model-conversation"),
    )
