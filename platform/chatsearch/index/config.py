"""What the ``embed`` and ``index`` jobs are told. Light: nothing heavy is imported."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from chatsearch.config import Config, Names, runtime


class EmbedConfig(Config):
    """A gallery's pictures through the frozen vision encoder, once.

    The input URIs stay out of the fingerprint, which holds the fingerprints of what lies there instead.
    """

    gallery: Names = runtime(())
    """Document shards whose pictures are embedded: one URI or several."""
    model: str = runtime("")
    """Model bundle or model weights that carry the frozen vision encoder."""
    output: str = runtime("")
    """Where the feature store goes."""
    reuse: Names = runtime(())
    """Feature stores of the same encoder: rows that one of them holds are copied, and their pictures are not even read."""
    dtype: Literal["float32", "float16"] = "float32"
    """How f_CLS is stored. Readers get float32 either way; float16 takes half the bytes and keeps 11 bits of each number."""
    thumbnail_px: int = Field(0, ge=0, le=512)
    """Longest side of a small JPEG of every picture that is stored beside its features; 0 stores none."""
    tokens: bool = False
    """Also keep the encoder's visual tokens (float16), so that training can run from cached features."""
    images_per_part: int = Field(512, ge=1, le=100_000)
    """Pictures in one part file: what an interrupted job loses at most, per actor."""
    batch_size: int = Field(32, ge=1, le=4096)
    """Pictures in every forward pass: one with fewer is filled up, so that it does not matter to a row which pictures are encoded
    with it. The size itself decides the last bits of the features, so it is part of the fingerprint."""
    max_metadata_chars: int = Field(300, ge=0)
    """Attributes longer than this stay in the documents and are not copied into the gallery; the manifest counts them by name."""
    max_rejected_fraction: float = runtime(0.05, ge=0.0, le=1.0)
    """More pictures than this share set aside fail the job."""
    num_actors: int = runtime(1, ge=1)
    """Most encoder actors at a time; fewer when there are fewer parts to make."""
    cpus_per_actor: float = runtime(1.0, gt=0)
    gpus_per_actor: float = runtime(0.0, ge=0)
    decode_threads: int = runtime(2, ge=1)
    """Threads per actor that decode the next batch while the encoder works on this one."""
    overwrite: bool = runtime(False)

    def content(self) -> dict[str, Any]:
        """The fields that decide the bytes; what is not asked for decides nothing, so that older stores stay what they are."""
        defaults = {"dtype": "float32", "thumbnail_px": 0}
        return {name: value for name, value in super().content().items() if (name, value) not in defaults.items()}


class IndexConfig(Config):
    """A feature store projected with a model's M_Q into FAISS shards."""

    features: str = runtime("")
    """Feature store to index."""
    model: str = runtime("")
    """Model bundle whose M_Q projects the features."""
    output: str = runtime("")
    """Where the index goes."""
    kind: Literal["flat", "fp16", "sq8", "ivf-pq", "ivf-opq", "ivf-rabitq", "hnsw"] = "flat"
    """``flat``: exact inner product over all rows. Of the others (docs/index-kinds.md) FAISS proposes rows, whose exact scores decide
    which of them are found and in which order. Galleries of fewer than 1,024 pictures are flat whatever is named here."""
    num_lists: int = Field(0, ge=0)
    """Inverted lists of each shard, for the kinds that have them; 0 takes four times the root of a shard's rows."""
    num_shards: int = Field(1, ge=1, le=1024)
    """Items are spread over the shards by their faiss id."""
    rates: str = runtime("")
    """Rates that ``chatsearch plan --probe`` kept, for the forecast that the manifest holds beside what the build took."""
    on_ray: bool = runtime(False)
    """Build the shards side by side in Ray tasks instead of one after the other in this process."""
    task_cpus: float = runtime(1.0, gt=0)
    """Processors of such a task."""
    overwrite: bool = runtime(False)


class FoldConfig(Config):
    """What a model needs to search a feature store as it is: the length of every picture's features after its M_Q."""

    features: str = runtime("")
    """Feature store to search."""
    model: str = runtime("")
    """Model bundle whose M_Q is folded into its queries."""
    output: str = runtime("")
    """Where the norms go."""
    overwrite: bool = runtime(False)
