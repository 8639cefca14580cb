"""Where the artefacts of one whole path lie, so that each job finds what the job before it made."""

from __future__ import annotations

from dataclasses import dataclass

from chatsearch.storage import join


@dataclass(frozen=True)
class Places:
    """Names below one root, a folder or ``s3://bucket/prefix``."""

    root: str

    def at(self, name: str) -> str:
        """URI of one artefact."""
        return join(self.root, name)

    @property
    def weights(self) -> str:
        """Where training starts from."""
        return self.at("weights")

    @property
    def align_shards(self) -> str:
        """Documents of stage 1."""
        return self.at("shards-align")

    @property
    def instruct_shards(self) -> str:
        """Documents of stage 2."""
        return self.at("shards-instruct")

    @property
    def test_shards(self) -> str:
        """Held-out dialogues, and the gallery they search."""
        return self.at("shards-test")

    @property
    def train_features(self) -> str:
        """Features and tokens of every training picture."""
        return self.at("features-train")

    @property
    def gallery_features(self) -> str:
        """Features of the gallery."""
        return self.at("features-gallery")

    @property
    def align_model(self) -> str:
        """Model bundle after stage 1."""
        return self.at("model-align")

    @property
    def instruct_model(self) -> str:
        """Model bundle after stage 2."""
        return self.at("model-instruct")

    @property
    def index(self) -> str:
        """Searchable gallery."""
        return self.at("index")

    @property
    def baseline(self) -> str:
        """The dual encoder that ours is compared with."""
        return self.at("baseline-dual-encoder")

    @property
    def fromage(self) -> str:
        """FROMAGe, likewise."""
        return self.at("baseline-fromage")

    @property
    def report(self) -> str:
        """Scores of model and baselines."""
        return self.at("evaluation.json")


TINY = Places("runs/quickstart-tiny")
SMALL = Places("runs/quickstart-small")
PAPER = Places("runs/paper")
GALLERY = Places("runs/gallery")
"""Pictures of one's own, for a model that is there."""
PHOTOGRAPHS = Places("runs/photographs/model-inputs")
"""Beside the bundle of ``small_photos``."""
