"""Query embeddings that one model made of dialogues: what an index of that model is tuned and measured with.

Shape suffixes: Q queries, d retrieval dimension.

    queries.parquet    query_id, target (content hash, empty where nobody knows it), half ("tuning" or "test"), vector
                       fixed_size_list<float32>[d]; in an order that a hash of the ids draws

Queries lie elsewhere in the space than pictures do, so an index that was tuned on pictures looks too far or too short. The halves
share no dialogue and no target.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from chatsearch.errors import CorruptArtefactError, FingerprintMismatchError, InputError
from chatsearch.index.vectors import Float32, check_queries
from chatsearch.kinds import QUERY_VECTORS
from chatsearch.manifest import Artefact, Output, hash_ids, open_artefact

if TYPE_CHECKING:
    from chatsearch.index.projection import Projection

Half = Literal["tuning", "test"]
HALVES: tuple[Half, ...] = get_args(Half)
QUERIES = "queries.parquet"


@dataclass(frozen=True)
class Lineage:
    """What query vectors come from."""

    model: str
    """URI of the bundle."""
    model_fingerprint: str
    mq_fingerprint: str
    data: str
    """URI of the documents."""


def place(query_id: str) -> str:
    """Where a query stands among others: a draw that depends on its id alone."""
    return hashlib.sha256(query_id.encode()).hexdigest()


def halves(query_ids: Sequence[str], targets: Sequence[str]) -> list[Half]:
    """The half of every query: a hash of its id decides, of queries with one target that of the first of them by id."""
    first: dict[str, str] = {}
    for query_id, target in sorted(zip(query_ids, targets, strict=True)):
        first.setdefault(target, query_id)
    deciding = (first[target] if target else query_id for query_id, target in zip(query_ids, targets, strict=True))
    # The last digit: the first ones give the order, and whoever takes some from the front shall find both halves there.
    return [HALVES[int(place(query_id)[-1], 16) % 2] for query_id in deciding]


def write_query_vectors(
    output: Output, query_ids: Sequence[str], targets: Sequence[str], vectors_Qd: NDArray[np.floating], of: Lineage
) -> Artefact:
    """Write query vectors to an output that a job has taken. The same vectors give the same bytes.

    Raises:
        InputError: there are none, ids repeat, numbers differ, a half is empty, or a vector is not finite or has no direction.
    """
    if not len(query_ids) == len(targets) == len(vectors_Qd):
        raise InputError(
            f"{len(query_ids)} query ids, {len(targets)} targets and {len(vectors_Qd)} vectors: give one of each a query."
        )
    if not len(query_ids):
        raise InputError(f"{of.data} gives no query, so there is nothing to tune an index with. Prepare dialogues.")
    if len(set(query_ids)) < len(query_ids):
        again = next(query_id for query_id in query_ids if list(query_ids).count(query_id) > 1)
        raise InputError(
            f"Query id {again!r} occurs more than once in {of.data}. Give every dialogue an id of its own."
        )
    vectors_Qd = check_queries(vectors_Qd, vectors_Qd.shape[1])
    order = sorted(range(len(query_ids)), key=lambda row: place(query_ids[row]))
    half_of = halves(query_ids, targets)
    counts: dict[str, int] = {half: half_of.count(half) for half in HALVES}
    if not all(counts.values()):
        held = " and ".join(f"{count} {half}" for half, count in counts.items())
        raise InputError(
            f"The {len(query_ids)} queries of {of.data} make {held} queries; both halves need some. Prepare more dialogues, with "
            "more than one target."
        )
    dimension = vectors_Qd.shape[1]
    table = pa.table(
        {
            "query_id": pa.array([query_ids[row] for row in order], pa.string()),
            "target": pa.array([targets[row] for row in order], pa.string()),
            "half": pa.array([half_of[row] for row in order], pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors_Qd[order].ravel(), pa.float32()), dimension),
        }
    )
    with output.folder.writing(QUERIES) as path:
        pq.write_table(table, path, compression="none", use_dictionary=False)
    return output.commit(
        counts={"queries": len(query_ids), **counts},
        files=[QUERIES],
        id_hash=hash_ids(query_ids),
        facts={
            "dimension": dimension,
            "model": of.model,
            "model_fingerprint": of.model_fingerprint,
            "mq_fingerprint": of.mq_fingerprint,
            "data": of.data,
        },
    )


class QueryVectors:
    """Finished query vectors. The file is read when vectors are first asked for."""

    def __init__(self, artefact: Artefact) -> None:
        self.artefact = artefact

    @classmethod
    def open(cls, uri: str) -> QueryVectors:
        """Open the query vectors at a URI.

        Raises:
            ArtefactError: if there are none, or they are damaged.
        """
        return cls(open_artefact(uri, QUERY_VECTORS))

    @property
    def uri(self) -> str:
        """Where they lie."""
        return self.artefact.uri

    @property
    def fingerprint(self) -> str:
        """What they are."""
        return self.artefact.fingerprint

    def check(self, projection: Projection) -> None:
        """Check that the model of a projection made them.

        Raises:
            FingerprintMismatchError: naming both models and the command that makes fitting vectors.
        """
        facts = self.artefact.manifest.facts
        for what, ours, theirs in (
            ("model", projection.model_fingerprint, facts["model_fingerprint"]),
            ("M_Q", projection.mq_fingerprint, facts["mq_fingerprint"]),
            ("width", str(projection.dimension), str(facts["dimension"])),
        ):
            if ours != theirs:
                raise FingerprintMismatchError(
                    f"Query vectors {self.uri} are of {what} {theirs}, model {projection.uri} has {what} {ours}. Make its own: "
                    f"python -m jobs.queries --set data={facts['data']} --set model={projection.uri} --set output=NEW_URI"
                )

    def vectors(self, half: Half, *, at_least: int = 1) -> Float32:
        """The unit vectors of one half, (Q, d).

        Raises:
            InputError: they are fewer than ``at_least``.
            CorruptArtefactError: a vector is no unit vector.
        """
        vectors_Qd = self._vectors_Nd[self._column("half") == half]
        if len(vectors_Qd) < at_least:
            raise InputError(
                f"{self.uri} has {len(vectors_Qd)} {half} queries; {at_least} are needed. Make more of more dialogues: python -m "
                f"jobs.queries --set data=DOCUMENT_SHARDS --set model={self.artefact.manifest.facts['model']} --set output=NEW_URI"
            )
        return vectors_Qd

    def ids(self, half: Half) -> list[str]:
        """Ids of the dialogues of one half, in the order of their vectors."""
        return list(self._column("query_id")[self._column("half") == half])

    def targets(self, half: Half) -> list[str]:
        """Content hashes of what the dialogues of one half ask for, in the order of their vectors."""
        return list(self._column("target")[self._column("half") == half])

    def _column(self, name: str) -> NDArray[np.object_]:
        return np.array(self._table[name].to_pylist(), dtype=object)

    @cached_property
    def _table(self) -> pa.Table:
        path = self.artefact.checked_path(QUERIES)
        try:
            return pq.read_table(path, columns=["query_id", "target", "half", "vector"]).combine_chunks()
        except (pa.ArrowException, OSError) as error:
            raise CorruptArtefactError(f"{path} holds no query vectors: {error}. Make them again.") from error

    @cached_property
    def _vectors_Nd(self) -> Float32:
        column, dimension = self._table["vector"].combine_chunks(), self.artefact.manifest.facts["dimension"]
        vectors_Nd = np.asarray(column.flatten(), dtype=np.float32)
        if len(vectors_Nd) != len(column) * dimension:
            raise CorruptArtefactError(f"{self.uri} holds vectors of another width than {dimension}. Make them again.")
        vectors_Nd = vectors_Nd.reshape(-1, dimension)
        lengths_N = np.linalg.norm(vectors_Nd.astype(np.float64), axis=1)
        bad = np.flatnonzero(~(np.abs(lengths_N - 1) < 1e-3))
        if len(bad):
            raise CorruptArtefactError(
                f"{len(bad)} of {len(vectors_Nd)} query vectors in {self.uri} are no unit vectors, the first is that of "
                f"{self._column('query_id')[bad[0]]!r} with length {lengths_N[bad[0]]}. Make them again."
            )
        return vectors_Nd
