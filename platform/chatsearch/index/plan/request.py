"""What a plan is asked for."""

from __future__ import annotations

from pydantic import Field

from chatsearch.config import Config


class PlanRequest(Config):
    """A gallery and the budgets of its search. Sizes in bytes, unless a name says otherwise."""

    images: int = Field(ge=1, le=10**12)
    """Pictures of the gallery."""
    qps: float = Field(gt=0, le=1e7, allow_inf_nan=False)
    """Searches a second, at the peak."""
    p95_ms: float = Field(gt=0, allow_inf_nan=False)
    """Milliseconds that 95 of 100 searches take at most, without the model that makes the query vector."""
    recall: float = Field(gt=0, le=1)
    """Recall@k against exact search over float32 vectors."""
    k: int = Field(10, ge=1, le=1000)
    """Hits of a search."""
    dimension: int = Field(256, ge=8, le=4096, multiple_of=8)
    """Width of the retrieval space; the paper's model has 256."""
    feature_dimension: int = Field(1024, ge=1, le=16384)
    """Width of f_CLS; CLIP ViT-L/14 has 1,024."""
    metadata_bytes: int = Field(100, ge=0)
    """JSON of one item."""
    id_bytes: int = Field(24, ge=1)
    """Length of an item id."""
    thumbnail_bytes: int = Field(0, ge=0)
    """A small JPEG of each picture, kept beside its features."""
    image_gflops: float = Field(162.0, gt=0)
    """Work of the vision encoder for a picture; ViT-L/14 at 224 pixels: 2 x 81 G multiply-adds."""
    embed_hours: float = Field(168.0, gt=0)
    """Hours in which all pictures are embedded, on as many machines as that takes."""
    build_hours: float = Field(24.0, gt=0)
    """Hours in which the index is built once, on as many machines as that takes."""
    months: float = Field(12.0, gt=0)
    """Months of serving, over which an index that is dearer to build may pay."""
    min_replicas: int = Field(2, ge=1)
    """Copies of every shard: with two, one machine may fail."""
    seed: int = Field(0, ge=0)
    """Of the simulation of queues."""
