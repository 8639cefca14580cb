"""Query vectors: two halves that share nothing, refusals by name, the same bytes each time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chatsearch.errors import CorruptArtefactError, FingerprintMismatchError, InputError
from chatsearch.index.config import IndexConfig
from chatsearch.index.projection import Projection
from chatsearch.index.query_vectors import HALVES, QUERIES, Lineage, QueryVectors, halves
from chatsearch.kinds import QUERY_VECTORS
from chatsearch.manifest import begin_output
from chatsearch.storage import Folder

from tests.unit.index.synthetic import RETRIEVAL_DIM, picture_hash, write_bundle, write_queries

NUM = 300


def vectors(num: int = NUM) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(num, RETRIEVAL_DIM))


@pytest.fixture
def model(tmp_path: Path) -> Projection:
    uri = str(tmp_path / "model")
    write_bundle(uri, np.random.default_rng(1).normal(size=(RETRIEVAL_DIM, 12)).astype(np.float32))
    return Projection.open(uri)


def test_halves_share_no_dialogue_and_no_target(tmp_path: Path, model: Projection) -> None:
    targets = [picture_hash(n // 3) for n in range(NUM)]
    held = QueryVectors(write_queries(str(tmp_path / "q"), vectors(), model, targets=targets))
    ids, wanted = ({half: set(read(half)) for half in HALVES} for read in (held.ids, held.targets))
    assert len(ids["tuning"] | ids["test"]) == NUM
    assert not ids["tuning"] & ids["test"]
    assert len(wanted["tuning"] | wanted["test"]) == NUM / 3
    assert not wanted["tuning"] & wanted["test"]
    assert min(len(held.vectors(half)) for half in HALVES) > NUM / 3


def test_the_half_of_a_dialogue_does_not_depend_on_the_others() -> None:
    ids = [f"dialogue-{n}" for n in range(50)]
    assert halves(ids, [""] * 50)[10:20] == halves(ids[10:20], [""] * 10)
    assert set(halves(ids, [""] * 50)) == set(HALVES)
    assert len(set(halves(ids, ["the same"] * 50))) == 1


def test_vectors_are_unit_and_lie_beside_their_ids(tmp_path: Path, model: Projection) -> None:
    held = QueryVectors(write_queries(str(tmp_path / "q"), vectors(), model))
    unit = vectors() / np.linalg.norm(vectors(), axis=1, keepdims=True)
    for half in HALVES:
        rows = [int(query_id.removeprefix("dialogue-")) for query_id in held.ids(half)]
        np.testing.assert_allclose(held.vectors(half), unit[rows], atol=1e-6)


def test_the_same_vectors_give_the_same_bytes(tmp_path: Path, model: Projection) -> None:
    first = write_queries(str(tmp_path / "a"), vectors(), model)
    again = write_queries(str(tmp_path / "b"), vectors(), model)
    assert first.read_checked(QUERIES) == again.read_checked(QUERIES)
    assert first.manifest.files == again.manifest.files


def test_another_model_is_refused_with_the_command_that_repairs_it(tmp_path: Path, model: Projection) -> None:
    held = QueryVectors(write_queries(str(tmp_path / "q"), vectors(), model))
    held.check(model)
    other = replace(model, model_fingerprint="feedfeedfeedfeed", uri="/models/other")
    with pytest.raises(FingerprintMismatchError) as refused:
        held.check(other)
    for said in (model.model_fingerprint, "feedfeedfeedfeed", "python -m jobs.queries", "--set model=/models/other"):
        assert said in str(refused.value)
    with pytest.raises(FingerprintMismatchError, match="width 8"):
        held.check(replace(model, weight_dD=np.ones((4, 12), np.float32)))


def test_bad_vectors_are_refused_by_name(tmp_path: Path, model: Projection) -> None:
    uri = str(tmp_path / "q")
    broken = vectors()
    broken[7, 3] = np.nan
    with pytest.raises(InputError, match="Query 7 holds nan at position 3"):
        write_queries(uri, broken, model)
    broken[7] = 0.0
    with pytest.raises(InputError, match="Query 7 has length 0"):
        write_queries(uri, broken, model)
    with pytest.raises(InputError, match="gives no query"):
        write_queries(uri, vectors(0), model)
    with pytest.raises(InputError, match="'dialogue-0' occurs more than once"):
        write_queries(uri, vectors(3), model, ids=["dialogue-0", "dialogue-1", "dialogue-0"])
    with pytest.raises(InputError, match=r"make .*0 .*both halves"):
        write_queries(uri, vectors(4), model, targets=["one"] * 4)
    with pytest.raises(InputError, match="3 query ids, 4 targets and 4 vectors"):
        write_queries(uri, vectors(4), model, ids=["a", "b", "c"])


def test_too_few_for_what_is_asked(tmp_path: Path, model: Projection) -> None:
    held = QueryVectors(write_queries(str(tmp_path / "q"), vectors(20), model))
    num = len(held.vectors("tuning"))
    with pytest.raises(InputError, match=rf"has {num} tuning queries; 100 are needed.*python -m jobs\.queries"):
        held.vectors("tuning", at_least=100)


def test_a_flipped_bit_is_noticed(tmp_path: Path, model: Projection) -> None:
    held = write_queries(str(tmp_path / "q"), vectors(), model)
    folder = Folder(held.uri)
    data = folder.read_bytes(QUERIES)
    folder.write_bytes(QUERIES, data[:2000] + bytes([data[2000] ^ 4]) + data[2001:])
    with pytest.raises(CorruptArtefactError, match=QUERIES):
        QueryVectors.open(held.uri).vectors("test")


def test_what_is_no_unit_vector_is_noticed(tmp_path: Path, model: Projection) -> None:
    """Whoever writes the file himself gets the checksum right, not the length."""
    held = write_queries(str(tmp_path / "q"), vectors(), model)
    table = pq.read_table(held.folder.local_path(QUERIES))
    column = table["vector"].combine_chunks()
    doubled = pa.FixedSizeListArray.from_arrays(pa.array(2 * column.flatten().to_numpy()), RETRIEVAL_DIM)
    output = begin_output(str(tmp_path / "w"), QUERY_VECTORS, IndexConfig(), {})
    with output.folder.writing(QUERIES) as path:
        pq.write_table(table.set_column(3, "vector", doubled), path)
    output.commit(counts=held.manifest.counts, facts=held.manifest.facts)
    with pytest.raises(CorruptArtefactError, match=r"no unit vectors.*length 2\.0"):
        QueryVectors.open(str(tmp_path / "w")).vectors("tuning")


def test_lineage_is_kept(tmp_path: Path, model: Projection) -> None:
    facts = write_queries(str(tmp_path / "q"), vectors(), model).manifest.facts
    wanted = Lineage(model.uri, model.model_fingerprint, model.mq_fingerprint, "/data/dialogues")
    assert Lineage(**{name: facts[name] for name in ("model", "model_fingerprint", "mq_fingerprint", "data")}) == wanted
