"""What the ``gallery`` job is told. Light: nothing heavy is imported."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from chatsearch.config import Config, Names, runtime
from chatsearch.index.config import Kind

Action = Literal["create", "add", "delete", "compact", "snapshot", "drop", "rollback", "collect", "forget", "describe"]


class GalleryConfig(Config):
    """One change of a gallery."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # ids, and the numbers of versions, may be all digits
    action: Action
    gallery: str = runtime("")
    """The gallery."""
    index: str = runtime("")
    """create: the gallery index to start from; none starts empty, projected with ``model``."""
    features: str = runtime("")
    """add: the feature store whose items are added; those that are there are replaced."""
    model: str = runtime("")
    """create, compact: model bundle whose M_Q projects the gallery; none keeps the index's or gallery's own."""
    items: Names = runtime(())
    """delete: item ids."""
    kind: Kind | None = runtime(None)
    """compact: kind of the new index; none keeps the kind, lists and search parameters of the one that is there, or takes ``flat``."""
    name: str = runtime("")
    """snapshot, drop, rollback: name of the snapshot; rollback also takes the number of a version that is kept."""
    what: str = runtime("")
    """forget: item id or content hash."""
    num_shards: int = runtime(0, ge=0, le=1024)
    """create, compact: shards; 0 keeps their number."""
    items_per_batch: int = runtime(4096, ge=1, le=65_536)
    """add: items that become visible together."""
    grace_s: float = runtime(3600.0, ge=0.0)
    """collect: seconds for which replaced versions stay whole for readers that still use them."""
    holder: str = runtime("jobs.gallery")
    """Name under which other writers are told who is writing."""
    take_over: bool = runtime(False)
    """Do not wait for another writer's lease to end; that writer is fenced off."""
    on_ray: bool = runtime(False)
    """compact: build in a Ray task; else in this process."""
    task_cpus: float = runtime(1.0, gt=0)
    """compact: processors that the Ray task asks for."""
