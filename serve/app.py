"""``build_app(args) -> Application``: the Ray Serve application, for ``serve.run`` and for Serve config files.

Ingress (HTTP, conversations)  ->  Model (bundle + dialogue engine)  ->  IndexShard-0 .. IndexShard-n
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chatsearch.kinds import MODEL_BUNDLE
from chatsearch.manifest import open_artefact

from serve.backend import GalleryFacts, ServedPair
from serve.settings import Scaling, ServeArgs

if TYPE_CHECKING:
    from ray.serve import Application

GALLERY_NAME = "default"


def check_pair(args: ServeArgs) -> ServedPair:
    """Read the manifests of what is to be served; nothing is loaded or started.

    Raises:
        IncompleteArtefactError: model, index or pictures are not there.
        FingerprintMismatchError: the index was built with another M_Q than the model has.
    """
    from chatsearch.data.shards import ImageStore
    from chatsearch.index.gallery import open_index

    bundle = open_artefact(args.model, MODEL_BUNDLE)
    projection = bundle.manifest.facts["mq_fingerprint"]
    index = open_index(args.index, projection, model=args.model)
    images = args.images or tuple(index.manifest.facts["images"])
    for uri in images:
        ImageStore.open(uri)
    facts, counts = index.manifest.facts, index.manifest.counts
    gallery = GalleryFacts(
        name=GALLERY_NAME,
        num_items=counts["items"],
        items_per_shard=tuple(facts["items_per_shard"]),
        dimension=facts["dimension"],
        kind=facts["kind"],
        encoder_fingerprint=facts["encoder_fingerprint"],
        projection_fingerprint=projection,
    )
    return ServedPair(bundle.fingerprint, index.fingerprint, images, gallery)


def build_app(args: ServeArgs) -> Application:
    """The application over one checked (model, index) pair.

    Raises:
        ArtefactError: as :func:`check_pair`, before any replica starts.
    """
    from ray import serve

    from serve.ingress import Ingress
    from serve.model_deployment import ModelServer
    from serve.shard_deployment import ShardServer

    pair = check_pair(args)
    shards = [
        serve.deployment(name=f"IndexShard-{number}", **deployment_options(args.shard_scaling, args))(ShardServer).bind(
            args.index, number
        )
        for number in range(len(pair.gallery.items_per_shard))
    ]
    model = serve.deployment(name="Model", **deployment_options(args.model_scaling, args))(ModelServer).bind(
        args.model, pair, shards, args.torch_threads, args.coverage
    )
    return serve.deployment(name="Ingress", **deployment_options(args.ingress_scaling, args))(
        serve.ingress()(Ingress)
    ).bind(args, model, shards, pair)


def deployment_options(scaling: Scaling, args: ServeArgs) -> dict[str, Any]:
    """Options of one deployment, in the words of Ray Serve."""
    return {
        "autoscaling_config": {
            "min_replicas": scaling.min_replicas,
            "max_replicas": scaling.max_replicas,
            "target_ongoing_requests": scaling.target_ongoing_requests,
            "upscale_delay_s": scaling.upscale_delay_s,
            "downscale_delay_s": scaling.downscale_delay_s,
        },
        "max_ongoing_requests": scaling.max_ongoing_requests,
        "max_queued_requests": scaling.max_queued_requests,
        "backpressure_config": {"status_code": 503, "retry_after_s": args.retry_after_s},
        "ray_actor_options": {"num_cpus": scaling.num_cpus, "num_gpus": scaling.num_gpus},
        "graceful_shutdown_timeout_s": args.turn_timeout_s,
        "health_check_period_s": 10,
        "health_check_timeout_s": 30,
    }
