"""The plan of a run: volumes, FLOPs, memory and hours, held against modules, tensors and figures known by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from chatsearch.data.config import StreamConfig
from chatsearch.data.steps import StepBuilder
from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.errors import MemoryBudgetError
from chatsearch.model.config import LoraConfig
from chatsearch.model.lora import add_adapters
from chatsearch.model.searcher import ChatSearcher
from chatsearch.model.size import searcher_parts, vision_parameters
from chatsearch.storage import Folder
from chatsearch.testing.tiny import tiny_config, tiny_searcher
from chatsearch.testing.training import tiny_training
from chatsearch.train import loop
from chatsearch.train.config import PlanConfig, TrainConfig
from chatsearch.train.deepspeed_engine import Engine, parameter_groups
from chatsearch.train.flops import step_flops
from chatsearch.train.memory import GIB, activation_bytes, bytes_per_parameter, check_memory, host_memory, state_bytes
from chatsearch.train.plan import DEVICES, device_name, known_peak_flops, peak_flops, training_hours, training_plan
from chatsearch.train.run import train
from chatsearch.train.volume import Volume, expected, most, total
from chatsearch.types import Kind
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from jobs.recipes import model
from jobs.recipes import train as recipes

PAPER = recipes.paper_align()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plan")


# ---- what a step holds ------------------------------------------------------------------------------------------


def test_a_step_of_the_paper_holds_at_most_full_rows() -> None:
    assert most(PAPER) == Volume(320, 256 + 64 * 14, 320 * 512, 320 * 512, 320 * 512**2)


def test_without_shards_the_lengths_are_assumed_and_said_to_be() -> None:
    captions, documents = expected(PAPER)
    assert captions.volume == Volume(256, 256, 256 * 51, 256 * 18, 256 * 51**2)
    assert documents.volume == Volume(64, 256, 64 * 512, 64 * (512 - 4 * 33), 64 * 512**2)
    assert captions.num_documents is documents.num_documents is None
    assert "assumed" in captions.origin
    (dialogues,) = expected(recipes.paper_instruct())
    assert dialogues.volume == Volume(64, 64, 64 * 285, 64 * (285 - 33), 64 * 285**2)
    longer = expected(PAPER.replace(plan=PlanConfig(caption_tokens=10_000, document_images=100)))
    assert total(longer).positions == most(PAPER).positions
    assert total(longer).images == most(PAPER).images


@pytest.mark.parametrize("answer_only", [False, True])
def test_where_the_shards_are_there_the_step_is_what_training_reads(folder: Path, answer_only: bool) -> None:
    """Mean over documents looked at against a whole epoch of batches as they are trained on."""
    config = tiny_training(folder, answer_only=answer_only)
    kinds = ((Kind.CAPTION,), (Kind.EDIT,))
    shards = config.streams[0].shards
    config = config.replace(streams=tuple(StreamConfig(shards=shards, per_step=8, kinds=each) for each in kinds))
    assert [stream.num_documents for stream in expected(config)] == [40, 24]
    builder = StepBuilder(
        config.streams,
        ChatTokenizer.load(Folder(config.weights)),
        config.model.num_queries,
        config.max_length,
        answer_only=answer_only,
    )
    batches = [builder.build(step, 0, 1)[0] for step in range(15)]  # five epochs of 24 documents, three of 40
    mean = total(expected(config))
    assert mean.documents == 16
    assert mean.images == pytest.approx(sum(b.num_images for b in batches) / 15, rel=0.02)
    assert mean.positions == pytest.approx(sum((b.document_ids >= 0).sum() for b in batches) / 15, rel=0.05)
    assert mean.labels == pytest.approx(sum((b.labels >= 0).sum() for b in batches) / 15, rel=0.1)
    assert mean.positions <= most(config).positions
    assert mean.pairs >= mean.positions**2 / mean.documents


def test_a_stream_of_all_kinds_is_their_mixture(folder: Path) -> None:
    config = tiny_training(folder)
    shards = config.streams[0].shards
    one = {
        kind: total(expected(config.replace(streams=(StreamConfig(shards=shards, per_step=1, kinds=(kind,)),))))
        for kind in (Kind.CAPTION, Kind.EDIT)
    }
    mixed = total(expected(config.replace(streams=(StreamConfig(shards=shards, per_step=64),))))
    assert mixed.positions == pytest.approx(40 * one[Kind.CAPTION].positions + 24 * one[Kind.EDIT].positions)


# ---- FLOPs ------------------------------------------------------------------------------------------------------


def counted(config: TrainConfig, *, length: int, num_images: int) -> int:
    """FLOPs of one document of one micro-batch, forward and backward, as PyTorch counts them on the meta device."""
    vision = config.model.vision
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        searcher = ChatSearcher(config.model)
        add_adapters(searcher, config.lora, seed=0)
        ids_RL = torch.zeros(1, length, dtype=torch.int64)
        rows, cols = torch.zeros(num_images, dtype=torch.int64), torch.ones(num_images, dtype=torch.int64)
        cls_ID = torch.zeros(num_images, vision.feature_dim)
        tokens_ITE = torch.zeros(num_images, vision.num_tokens, vision.token_dim)
        embeddings_RLH = searcher.input_embeddings(ids_RL, rows, cols, cls_ID, tokens_ITE)
        # With a cache: looking for packed documents takes values, which meta tensors do not have.
        hidden_RLH = searcher.decode_step(embeddings_RLH, searcher.new_cache())
        query_Id = searcher.query_embedding(searcher.image_states(hidden_RLH, rows, cols))
        scores = query_Id @ searcher.gallery_embedding(torch.zeros(50, vision.feature_dim)).T
        (searcher.word_logits(hidden_RLH).sum() + scores.sum()).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("frozen", "rank"), [({}, 0), ({"freeze_language": True}, 0), ({"freeze_words": True}, 0), ({}, 16)], ids=str
)
@pytest.mark.parametrize("size", [model.tiny, model.small, model.paper])
def test_a_step_costs_what_pytorch_counts(size, frozen: dict, rank: int) -> None:
    """Decoder, attention, M_t, perceiver, projectors and heads together, to the last FLOP."""
    shape = size().replace(**frozen)
    if size is model.paper:  # fewer layers of the same width: the count is linear in them
        shape = shape.replace(language=shape.language.replace(num_layers=3))
    config = TrainConfig(
        model=shape, lora=LoraConfig(rank=rank), features="stored", objective=PAPER.objective.replace(queue_size=50)
    )
    length = 4 * shape.block_length
    flops = step_flops(config, Volume(1, 3, length, length, length**2))
    # Ours takes 6 a weight everywhere; the first matrices have inputs without gradient and cost 4.
    spared = 2 * shape.vision.feature_dim * (3 * shape.language.hidden_size + 50 * shape.retrieval_dim)
    assert flops.model - spared == counted(config, length=length, num_images=3)


def test_the_paper_in_round_figures() -> None:
    flops = step_flops(PAPER, most(PAPER))
    assert flops.decoder == 6 * 32 * (4 * 4096**2 + 3 * 4096 * 11008) * 163_840
    assert flops.attention == 12 * 32 * 4096 * 512 * 163_840
    # ViT-L/14 at 224: 81 billion multiply-adds a picture, as published.
    assert flops.vision / 1152 == pytest.approx(2 * 81e9, rel=0.01)
    # Recomputing each layer once adds a third of it, logits in chunks likewise.
    assert flops.recomputed == pytest.approx((flops.decoder + flops.attention + flops.words) / 3, rel=1e-3)


def test_nothing_is_recomputed_without_need() -> None:
    config = PAPER.replace(activation_checkpointing=False)
    assert step_flops(config, Volume(320, 320, 8 * 1024, 8 * 1024, 1e6)).recomputed == 0
    assert step_flops(config, Volume(320, 320, 9 * 1024, 9 * 1024, 1e6)).recomputed > 0
    assert step_flops(PAPER, Volume(320, 320, 8 * 1024, 8 * 1024, 1e6)).recomputed > 0


def test_hours_are_flops_over_what_the_devices_reach() -> None:
    flops = step_flops(PAPER, most(PAPER))
    assert peak_flops(PAPER) == 8 * 312e12
    assert training_hours(PAPER, flops) == pytest.approx(200_000 * flops.model / (8 * 312e12 * 0.4) / 3600)
    faster = PAPER.replace(plan=PlanConfig(device="h100-80gb", mfu=0.5))
    assert training_hours(PAPER, flops) / training_hours(faster, flops) == pytest.approx(989 / 312 * 0.5 / 0.4)
    assert peak_flops(PAPER.replace(precision="fp32")) == 8 * 19.5e12
    laptop = recipes.tiny_align().replace(threads_per_worker=2)
    assert (device_name(laptop), peak_flops(laptop)) == ("cpu-core", 2 * 2 * DEVICES["cpu-core"].fp32)


# ---- memory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "expected_sums"), [(2, (16, 10, 9)), (8, (16, 5.5, 3.75))])
def test_bytes_a_parameter_in_bf16_are_those_of_the_zero_paper(workers: int, expected_sums: tuple) -> None:
    assert tuple(sum(bytes_per_parameter("bf16", stage, workers)) for stage in (0, 1, 2)) == expected_sums


def test_frozen_parts_and_stored_features_cost_no_state() -> None:
    trained = sum(part.trained for part in searcher_parts(PAPER.model))
    state = state_bytes(PAPER)
    assert state.weights + state.gradients + state.optimiser == pytest.approx(5.5 * trained)
    assert state.encoder == 4 * vision_parameters(PAPER.model.vision)
    assert state_bytes(PAPER.replace(features="stored")).encoder == 0
    frozen = state_bytes(PAPER.replace(model=PAPER.model.replace(freeze_language=True)))
    assert frozen.weights == state.weights
    assert frozen.gradients < 0.02 * state.gradients
    adapted = state_bytes(PAPER.replace(lora=LoraConfig(rank=16)))
    # PEFT counts 39,976,960 for this rank on all seven matrices of a Llama 7B.
    assert adapted.gradients - frozen.gradients == 2 * 39_976_960
    assert adapted.weights - frozen.weights == 2 * 39_976_960


class _Sum(nn.Module):
    """Gives every parameter a gradient."""

    def __init__(self, searcher: nn.Module) -> None:
        super().__init__()
        self.searcher = searcher

    def forward(self) -> dict[str, torch.Tensor]:
        return {"loss": torch.stack([p.float().square().sum() for p in self.parameters()]).sum()}


@pytest.mark.parametrize(
    ("precision", "stage"), [("fp32", 0), ("fp32", 1), ("fp32", 2), ("mixed", 1), ("bf16", 1), ("bf16", 2)]
)
def test_deepspeed_holds_what_the_table_says(precision, stage) -> None:
    """Bytes of all tensors that are alive because of an engine, after a backward pass."""
    loop._join_group()
    config = TrainConfig(model=tiny_config(20_000), precision=precision, zero_stage=stage, num_workers=1)
    searcher = tiny_searcher(config.model).train()
    engine = Engine(_Sum(searcher), parameter_groups(searcher, config), config)
    inner, optimiser = engine._engine, engine._engine.optimizer
    for _ in range(2):  # the moments are there after the first update
        engine.backward(engine.losses()["loss"])
        held: dict[str, list[torch.Tensor | None]] = {
            "weights": list(searcher.parameters()),
            "gradients": [],
            "optimiser": [],
        }
        if stage:
            held["gradients"] = [g for group in optimiser.averaged_gradients.values() for g in group]
            held["optimiser"] = [*optimiser.single_partition_of_fp32_groups]
        else:
            held["gradients"] = [p.grad for p in searcher.parameters()]
        states = (optimiser.optimizer if stage else inner.optimizer).state.values()
        held["optimiser"] += [t for state in states for t in state.values() if torch.is_tensor(t) and t.numel() > 1]
        engine.update(1e-4)
    table = state_bytes(config)
    for name, tensors in held.items():
        num_bytes = sum(t.numel() * t.element_size() for t in tensors if t is not None)
        assert num_bytes == pytest.approx(getattr(table, name), rel=0.01), name


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_estimate_of_activations_is_near_what_autograd_keeps(checkpointing: bool) -> None:
    # Deep enough for the layers to be most of it.
    language = model.tiny().language.replace(hidden_size=128, intermediate_size=384, num_layers=4)
    config = TrainConfig(model=model.tiny().replace(language=language), activation_checkpointing=checkpointing)
    searcher = tiny_searcher(config.model).train()
    if checkpointing:
        searcher.enable_activation_checkpointing()
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in searcher.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    vision, length, num_rows, num_images = config.model.vision, 256, 4, 24
    alive = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden_RLH = searcher(
            torch.ones(num_rows, length, dtype=torch.int64),
            torch.arange(length).expand(num_rows, -1),
            image_row_I=torch.arange(num_images) % num_rows,
            image_col_I=1 + torch.arange(num_images) // num_rows * 10,
            cls_ID=torch.zeros(num_images, vision.feature_dim),
            tokens_ITE=torch.zeros(num_images, vision.num_tokens, vision.token_dim),
        )
        alive.append(hidden_RLH)
    positions = num_rows * length
    estimate = activation_bytes(config, Volume(num_rows, num_images, positions, 0, num_rows * length**2))
    if checkpointing:  # what a layer keeps while it is recomputed does not show in the forward pass
        without = activation_bytes(config.replace(activation_checkpointing=False), Volume(0, 0, positions, 0, 0))
        estimate -= without / config.model.language.num_layers
    assert sum(kept.values()) == pytest.approx(estimate, rel=0.35)


def test_a_run_that_cannot_fit_is_refused_with_figures_and_a_way_out() -> None:
    check_memory(PAPER, 80 * GIB, where="A100")
    with pytest.raises(MemoryBudgetError, match=r"take 36.2 GiB in each of 8 workers .* A100 has 32 GiB") as refused:
        check_memory(PAPER, 32 * GIB, where="A100")
    assert "zero_stage=2 takes 25 GiB" in str(refused.value)
    with pytest.raises(
        MemoryBudgetError, match=r"node-1 has 64 GiB for 4 of them.*No ZeRO stage and no precision fits"
    ):
        check_memory(PAPER, 64 * GIB, where="node-1", num_sharing=4)
    with pytest.raises(MemoryBudgetError, match="precision=bf16 with zero_stage=2 takes 25"):
        check_memory(PAPER.replace(precision="fp32", zero_stage=0), 40 * GIB, where="A100")


def test_the_refusal_comes_before_weights_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_training(folder, output=str(folder / "refused"))
    monkeypatch.setattr(loop, "host_memory", lambda: state_bytes(config).total - 1)
    monkeypatch.setattr(loop, "load_start", lambda config: pytest.fail("weights were read"))
    with pytest.raises(MemoryBudgetError, match="GiB for 1 of them"):
        train(config)


def test_the_memory_of_this_machine_is_a_plausible_one() -> None:
    assert GIB / 2 < host_memory() < 2**50


# ---- the text ---------------------------------------------------------------------------------------------------


def test_the_plan_of_the_paper_says_everything() -> None:
    text = training_plan(PAPER)
    for said in (
        "language model  6,738,432,000  6,738,432,000",
        "frozen encoder    303,179,776              0",
        "51,200,000 drawn in 200,000 steps",
        "ZeRO 1 (this run)    12.76      12.76       9.57",
        "2+2+12, 2+2+12/N, 2+(2+12)/N, N = 8 workers",
        "an ESTIMATE",
        "8 x a100-80gb of 312.00 TFLOP/s in bf16, at 40% MFU",
        "recomputed, on top",
    ):
        assert said in text, said


@pytest.mark.parametrize(
    "recipe", ["tiny_align", "tiny_instruct", "small_align", "paper_instruct", "paper_conversation"]
)
def test_every_recipe_has_a_plan(recipe: str) -> None:
    assert "MFU" in training_plan(getattr(recipes, recipe)())


def test_a_run_without_streams_has_a_plan_too() -> None:
    assert "0.00 GFLOP" in training_plan(TrainConfig())


def test_a_plan_that_does_not_fit_says_so_beforehand() -> None:
    single = PAPER.replace(num_workers=1)
    assert "too few for the state, the run would be refused at its start" in training_plan(single)


def test_assumptions_stay_out_of_the_fingerprint() -> None:
    assert PAPER.content() == PAPER.replace(plan=PlanConfig(mfu=0.1, device="h100-80gb")).content()


def test_a_plan_loads_nothing_heavy() -> None:
    code = (
        "import sys; from jobs.train import JOB; from jobs.recipes.train import paper_align; JOB.forecast(paper_align());"
        "print([m for m in ('torch', 'ray', 'deepspeed', 'transformers', 'mlflow', 'faiss') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100-80gb"),
        ("NVIDIA H200", "h200-141gb"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA GeForce RTX 4090", None),
        (None, None),
    ],
)
def test_a_peak_is_known_where_the_device_says_what_it_is(name: str | None, device: str | None) -> None:
    assert known_peak_flops(PAPER, name) == (8 * DEVICES[device].bf16 if device else None)
    named = PAPER.replace(plan=PlanConfig(device="a100-40gb"))
    assert known_peak_flops(named, name) == 8 * 312e12
