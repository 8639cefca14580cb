from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from chatsearch.errors import CorruptArtefactError
from chatsearch.train.state import KINDS, Piece, TensorFile, joined_weights, read_tensors, restore, snapshot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

SIZES = {"a": 5, "b": 1, "c": 12}


def parameters(fill: bool) -> dict[str, dict[str, torch.Tensor]]:
    """Every kind of every parameter, flat; with ``fill`` each element another number."""
    count = iter(range(1, 10**6))
    return {
        kind: {name: torch.tensor([float(next(count)) * fill for _ in range(n)]) for name, n in SIZES.items()}
        for kind in KINDS
    }


def cut(held: dict[str, dict[str, torch.Tensor]], cuts: list[int]) -> list[list[Piece]]:
    """Pieces of each rank when the joined parameters are cut at some places, as ZeRO does."""
    bounds = [0, *sorted(cuts), sum(SIZES.values())]
    ranks = []
    for begin, end in itertools.pairwise(bounds):
        pieces, offset = [], 0
        for name, size in SIZES.items():
            start, stop = max(begin - offset, 0), min(end - offset, size)
            if start < stop:
                tensors = {kind: held[kind][name][start:stop] for kind in KINDS}
                pieces.append(Piece(name, start, size, tensors, {"step": torch.tensor(0.0)}))
            offset += size
        ranks.append(pieces)
    return ranks


def write(folder: Path, ranks: list[list[Piece]]) -> list[Path]:
    paths = []
    for rank, pieces in enumerate(ranks):
        file = snapshot(f"rank-{rank}", pieces, {"random": torch.arange(3)})
        save(file, folder / file.name)
        paths.append(folder / file.name)
    return paths


def save(file: TensorFile, path: Path) -> None:
    save_file(dict(file.tensors), path, dict(file.metadata))


places = st.lists(st.integers(0, sum(SIZES.values())), max_size=4)


@given(places, places)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_some_ranks_write_any_other_number_reads(tmp_path: Path, written: list[int], read: list[int]) -> None:
    ranks = cut(parameters(fill=True), written)
    for pieces in ranks:
        for piece in pieces:
            piece.set_updates(7)
    paths = write(tmp_path, ranks)
    empty = parameters(fill=False)
    for pieces in cut(empty, read):
        restore(pieces, paths)
        assert {piece.num_updates for piece in pieces} <= {7}
    for kind, tensors in parameters(fill=True).items():
        assert all(torch.equal(empty[kind][name], tensor) for name, tensor in tensors.items()), kind
    weights = joined_weights(paths)
    assert {name: weight.tolist() for name, weight in weights.items()} == {
        name: tensor.tolist() for name, tensor in parameters(fill=True)["weight"].items()
    }


def test_a_snapshot_stays_as_it_is_while_steps_go_on() -> None:
    held = parameters(fill=True)
    file = snapshot("rank", cut(held, [])[0], {})
    before = {name: tensor.clone() for name, tensor in file.tensors.items()}
    for tensors in held.values():
        for tensor in tensors.values():
            tensor.add_(1.0)
    assert all(torch.equal(file.tensors[name], tensor) for name, tensor in before.items())


def test_the_memory_of_the_last_snapshot_is_used_again() -> None:
    held = parameters(fill=True)
    pieces = cut(held, [])[0]
    first = snapshot("rank", pieces, {})
    held["weight"]["a"].fill_(-1.0)
    second = snapshot("rank", pieces, {}, first)
    assert (
        second.tensors["weight/a"].data_ptr() == first.tensors["weight/a"].data_ptr() != held["weight"]["a"].data_ptr()
    )
    assert set(second.tensors["weight/a"].tolist()) == {-1.0}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_is_not_there_is_named(tmp_path: Path, kind: str) -> None:
    file = snapshot("rank", cut(parameters(fill=True), [])[0], {})
    save(
        TensorFile("rank", {k: v for k, v in file.tensors.items() if k != f"{kind}/b"}, file.metadata),
        tmp_path / "rank",
    )
    with pytest.raises(CorruptArtefactError, match=f"has no {kind}/b: part of the state is missing"):
        restore(cut(parameters(fill=False), [])[0], [tmp_path / "rank"])


def test_a_rank_that_is_not_there_is_noticed(tmp_path: Path) -> None:
    paths = write(tmp_path, cut(parameters(fill=True), [3, 9]))
    with pytest.raises(CorruptArtefactError, match="holds 3 of 5 elements of a that this rank needs"):
        restore(cut(parameters(fill=False), [])[0], [paths[0], paths[2]])
    with pytest.raises(CorruptArtefactError, match="holds 3 of 5 elements of a"):
        joined_weights([paths[0], paths[2]])


def test_another_shape_and_a_foreign_file_are_refused(tmp_path: Path) -> None:
    (path,) = write(tmp_path, cut(parameters(fill=True), []))
    wider = Piece("a", 0, 6, {kind: torch.zeros(6) for kind in KINDS}, {"step": 0})
    with pytest.raises(CorruptArtefactError, match="holds a with 5 elements, the model has 6"):
        restore([wider], [path])
    save_file({"weight/a": torch.zeros(5)}, tmp_path / "foreign")
    with pytest.raises(CorruptArtefactError, match="does not say which pieces it holds"):
        restore([wider], [tmp_path / "foreign"])
    (tmp_path / "pickle").write_bytes(b"\x80\x04.")
    with pytest.raises(CorruptArtefactError, match="is no safetensors file"):
        restore([wider], [tmp_path / "pickle"])


def test_named_tensors_come_back_and_a_missing_one_is_named(tmp_path: Path) -> None:
    (path,) = write(tmp_path, cut(parameters(fill=True), []))
    assert read_tensors(path, ["random"])["random"].tolist() == [0, 1, 2]
    with pytest.raises(CorruptArtefactError, match="has no queue"):
        read_tensors(path, ["queue"])


def test_updates_are_counted_as_the_optimiser_counts_them() -> None:
    for counter in (torch.tensor(0.0), 0):
        piece = Piece("a", 0, 1, {"weight": torch.zeros(1)}, {"step": counter})
        piece.set_updates(5)
        assert type(piece.optimiser_state["step"]) is type(counter)
        assert piece.num_updates == 5
