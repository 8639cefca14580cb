"""What the ``embed`` and ``index`` jobs are told. Light: nothing heavy is imported."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from chatsearch.config import Config, Names, runtime
from chatsearch.errors import ConfigError

Kind = Literal["flat", "fp16", "sq8", "ivf-pq", "ivf-opq", "ivf-rabitq", "hnsw"]
"""Kinds of index that can be named."""


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
    """Replace what an earlier run made there from other inputs or in another way."""

    def content(self) -> dict[str, Any]:
        """The fields that decide the bytes; what is not asked for decides nothing, so that older stores stay what they are."""
        defaults = {"dtype": "float32", "thumbnail_px": 0}
        return {name: value for name, value in super().content().items() if (name, value) not in defaults.items()}


class SearchDefaults(Config):
    """What a search of an index goes by that says nothing itself; 0 leaves it to the kind. See docs/index-kinds.md."""

    nprobe: int = Field(0, ge=0)
    """Inverted lists that are looked at."""
    ef_search: int = Field(0, ge=0)
    """Nodes of a graph that are kept in view."""
    num_reranked: int = Field(0, ge=0)
    """Proposed rows whose exact scores are computed."""

    def given(self) -> dict[str, int]:
        """What is set."""
        return {name: value for name, value in dict(self).items() if value}


class IndexConfig(Config):
    """A feature store projected with a model's M_Q into FAISS shards.

    Raises:
        ConfigError: budgets or query vectors are given to a kind that is not chosen by them, or search parameters to one that is;
            or raw features are wanted and a model named.
    """

    features: str = runtime("")
    """Feature store to index."""
    model: str = runtime("")
    """Model bundle whose M_Q projects the features."""
    output: str = runtime("")
    """Where the index goes."""
    raw: bool = False
    """Index the features as they are, for no model: what folded searches of any model take proposals from (docs/index-kinds.md)."""
    kind: Literal[Kind, "auto"] = "flat"
    """How rows are kept and searched (docs/index-kinds.md). ``flat``: exact inner product over all rows. Of the others FAISS proposes rows, whose exact scores decide
    which of them are found and in which order. Galleries of fewer than 1,024 pictures are flat whatever is named here. ``auto``: the
    fastest of them within the budgets below, as ``queries`` measure it on the machine that builds."""
    num_lists: int = Field(0, ge=0)
    """Inverted lists of each shard, for the kinds that have them; 0 takes four times the root of a shard's rows."""
    search: SearchDefaults = SearchDefaults()
    """How far a search looks by default."""
    queries: str = runtime("")
    """Query vectors of the model (``jobs.queries``), whose tuning half chooses the kind and how far a search looks (auto)."""
    max_bytes: int = Field(0, ge=0)
    """Most bytes that the FAISS files of all shards may take in memory (auto); 0 sets no limit."""
    p95_ms: float = Field(0.0, ge=0.0)
    """Most milliseconds that 95 of 100 searches of one shard may take, one query at a time in one thread (auto); 0 sets no limit."""
    min_recall: float = Field(0.95, gt=0.0, le=1.0)
    """Least share of the 10 nearest pictures that a search finds (auto)."""
    tuning_rows: int = Field(200_000, ge=100_000)
    """Of a larger shard, kinds are tried on a sample of so many of its pictures (auto)."""
    num_shards: int = Field(1, ge=1, le=1024)
    """Items are spread over the shards by their faiss id."""
    rates: str = runtime("")
    """Rates that ``chatsearch plan --probe`` kept, for the forecast that the manifest of a flat index holds beside what
    its build took (in one process)."""
    on_ray: bool = runtime(False)
    """Build the shards side by side in Ray tasks instead of one after the other in this process."""
    task_cpus: float = runtime(1.0, gt=0)
    """Processors of such a task."""
    task_gpus: float = runtime(0.0, ge=0)
    """GPUs of such a task where the kind has inverted lists; for others none are asked for."""
    overwrite: bool = runtime(False)
    """Replace what an earlier run made there from other inputs or in another way."""

    def content(self) -> dict[str, Any]:
        """The fields that decide the bytes; of those that others leave alone only what is asked for, so that older indices stay what
        they are."""
        content = super().content()
        if self.kind != "auto":
            for name in _BUDGETS:
                del content[name]
        if not self.search.given():
            del content["search"]
        if not self.raw:
            del content["raw"]
        return content

    @model_validator(mode="after")
    def _check_kind(self) -> IndexConfig:
        if self.raw and self.model:
            raise ConfigError(f"raw=true is for no model, and model is {self.model}. Leave one of them out.")
        if self.raw and self.kind == "auto":
            raise ConfigError("kind=auto chooses by query vectors of a model, and raw=true has none. Name a kind.")
        if self.kind == "auto":
            if self.search.given() or self.num_lists:
                raise ConfigError(
                    "kind=auto chooses lists and search parameters by measuring them. Leave num_lists and search out."
                )
            return self
        defaults = IndexConfig.model_fields
        for name in ("queries", *_BUDGETS):
            value = getattr(self, name)
            if value != defaults[name].default:
                raise ConfigError(
                    f"{name}={value} is for kind=auto only; kind is {self.kind}. Leave it out, or set kind=auto."
                )
        return self


_BUDGETS = ("max_bytes", "p95_ms", "min_recall", "tuning_rows")
"""What only ``kind=auto`` is told, and what so decides its bytes."""


class FoldConfig(Config):
    """What a model needs to search a feature store as it is: the length of every picture's features after its M_Q."""

    features: str = runtime("")
    """Feature store to search."""
    model: str = runtime("")
    """Model bundle whose M_Q is folded into its queries."""
    output: str = runtime("")
    """Where the norms go."""
    overwrite: bool = runtime(False)
    """Replace what an earlier run made there from other inputs or in another way."""
