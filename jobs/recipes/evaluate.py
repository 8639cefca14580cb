"""What the ``evaluate`` job measures."""

from __future__ import annotations

from chatsearch.evaluate.config import EvaluateConfig

from jobs.recipes.places import SMALL, TINY, Places


def plain() -> EvaluateConfig:
    """Nothing preset: name protocol, data, model and output with --set."""
    return EvaluateConfig()


def tiny(places: Places = TINY) -> EvaluateConfig:
    """The three ChatSearch sub-tasks on held-out scenes, with [IMG] forced."""
    return EvaluateConfig(
        protocol="chatsearch",
        model=places.instruct_model,
        data=places.test_shards,
        index=places.index,
        features=(places.gallery_features,),
        baseline=places.baseline,
        output=places.report,
    )


def tiny_fromage(places: Places = TINY) -> EvaluateConfig:
    """The same beside FROMAGe as well: ``jobs.baseline --recipe tiny_fromage`` makes it, the quickstart does not."""
    return tiny(places).replace(fromage=places.fromage, output=places.at("evaluation-fromage.json"))


def tiny_decision(places: Places = TINY) -> EvaluateConfig:
    """Whether the model itself decides to answer with a picture, on held-out scenes."""
    return EvaluateConfig(
        protocol="decision",
        model=places.instruct_model,
        data=places.test_shards,
        output=places.at("evaluation-decision.json"),
    )


def tiny_interaction(places: Places = TINY) -> EvaluateConfig:
    """Whether other picks and other words lead to other results, on held-out scenes."""
    return tiny_decision(places).replace(
        protocol="interaction", index=places.index, output=places.at("evaluation-interaction.json")
    )


def small(places: Places = SMALL) -> EvaluateConfig:
    """Text to image on the held-out photographs of a captioned folder; name it with --set data=FOLDER."""
    return EvaluateConfig(
        protocol="text_to_image",
        model=places.instruct_model,
        features=(places.gallery_features, places.train_features),
        baseline=places.baseline,
        output=places.report,
    )


def small_decision(places: Places = SMALL) -> EvaluateConfig:
    """Whether the model itself decides to answer with a picture, on held-out photographs."""
    return tiny_decision(places)


def small_fromage(places: Places = SMALL) -> EvaluateConfig:
    """The same beside FROMAGe as well, made by ``jobs.baseline --recipe small_fromage``."""
    return small(places).replace(fromage=places.fromage, output=places.at("evaluation-fromage.json"))
