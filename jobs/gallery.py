"""Change a gallery while it is searched: add, delete, compact, snapshot, roll back, forget.

One writer at a time: a second one is refused with the name of the first and the end of its lease.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from chatsearch.errors import ConfigError
from chatsearch.index.live.config import GalleryConfig
from chatsearch.kinds import FEATURE_STORE
from chatsearch.manifest import open_artefact
from chatsearch.storage import resolve
from chatsearch.tracking.tracker import Tracker

from jobs.command import Job, Made, main
from jobs.recipes import gallery as recipes

if TYPE_CHECKING:
    from chatsearch.index.live.writer import GalleryWriter

_NEEDED = {
    "add": "features",
    "delete": "items",
    "snapshot": "name",
    "drop": "name",
    "rollback": "name",
    "forget": "what",
}


def work(config: GalleryConfig, tracker: Tracker) -> Made:
    """Do one action in this process."""
    from chatsearch.index.live.create import create_gallery
    from chatsearch.index.live.describe import describe
    from chatsearch.index.live.writer import GalleryWriter

    for key in ("gallery", _NEEDED.get(config.action, "gallery")):
        if not getattr(config, key):
            raise ConfigError(f"{config.action} needs {key}; say it with --set {key}=...")
    if config.action == "create":
        if not (config.index or config.model):
            raise ConfigError("create needs an index to start from, or a model: --set index=URI or --set model=URI.")
        create_gallery(
            config.gallery, index=config.index or None, model=config.model or None, num_shards=config.num_shards or 1
        )
    if config.action in ("create", "describe"):
        described = describe(config.gallery)
        print("\n".join(described.lines))
        return Made(resolve(config.gallery), described.counts)
    with GalleryWriter.open(config.gallery, config.holder, take_over=config.take_over) as writer:
        _change(writer, config)
        counts = {"version": writer.version, "items": writer.num_items}
    tracker.log_metrics({f"num_{name}": count for name, count in counts.items()})
    print(", ".join(f"{name} {count}" for name, count in counts.items()))
    return Made(resolve(config.gallery), counts)


def _change(writer: GalleryWriter, config: GalleryConfig) -> None:
    match config.action:
        case "add":
            from chatsearch.index.live.bulk import add_store
            from chatsearch.progress import progress

            total = open_artefact(config.features, FEATURE_STORE).manifest.counts["items"]
            num_before = writer.num_items
            with progress("add", total, "items") as advance:
                add_store(writer, config.features, config.items_per_batch, advance)
            print(f"added {writer.num_items - num_before}, replaced {total - writer.num_items + num_before}")
        case "delete":
            asked = set(config.items)
            num_held = sum(item_id in writer.catalogue for item_id in asked)
            if num_held:
                writer.delete(asked)
            print(f"deleted {num_held} of {len(asked)}{'' if num_held else ': the gallery holds none of these ids'}")
        case "compact":
            _compact(writer, config)
        case "snapshot":
            writer.snapshot(config.name)
        case "drop":
            writer.drop_snapshot(config.name)
        case "rollback":
            writer.rollback(int(config.name) if config.name.isdecimal() else config.name)
        case "collect":
            collected = writer.collect(config.grace_s)
            print(f"deleted {len(collected.entries)} entries and {len(collected.bases)} bases")
        case "forget":
            from chatsearch.index.live.forget import forget

            print(json.dumps(asdict(forget(writer, config.what)), indent=2))


def _compact(writer: GalleryWriter, config: GalleryConfig) -> None:
    from chatsearch.index.live.compact import build_base

    planned = writer.plan_compaction(model=config.model or None, num_shards=config.num_shards or None, kind=config.kind)
    if not config.on_ray:
        writer.commit_compaction(build_base(planned))
        return
    from chatsearch.session import ray_session

    with ray_session():
        from chatsearch.index.live.remote import build_base_on_ray

        writer.commit_compaction(build_base_on_ray(planned, config.task_cpus))


JOB = Job("gallery", recipes, default=None, kind=None, work=work)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
