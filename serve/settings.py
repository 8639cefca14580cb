"""What the application is told: typed, frozen, checked when built. Light: neither Ray nor torch is imported."""

from __future__ import annotations

from typing import Annotated

from chatsearch.config import Config
from chatsearch.converse.config import RetrieveMode
from chatsearch.errors import ConfigError
from chatsearch.storage import resolve
from pydantic import Field, field_validator


class Limits(Config):
    """What a request may ask for. Everything beyond is refused before any work is done."""

    max_body_bytes: int = Field(default=20_000_000, ge=1024)
    """Bytes of an HTTP request body: 413 beyond."""
    max_body_s: float = Field(default=20.0, gt=0)
    """Seconds in which a request body has to come in: 408 beyond, or clients that stop half-way would hold every place there is."""
    max_images: int = Field(default=16, ge=1)
    """Pictures in one dialogue, earlier turns included."""
    max_turns: int = Field(default=64, ge=1)
    """User and assistant turns in one dialogue."""
    max_tokens: int = Field(default=8192, ge=64)
    """Positions of a prompt, image blocks included. The model's own context may be shorter and then counts."""
    max_text_characters: int = Field(default=32_768, ge=256)
    """Characters of all text in one dialogue: a bound that is checked before anything is tokenised."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Tokens of one answer; also the default."""
    max_candidates: int = Field(default=100, ge=1)
    """Candidates of one retrieval."""


class Scaling(Config):
    """Replicas of one deployment, as Ray Serve's autoscaler reads them."""

    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=1, ge=1)
    target_ongoing_requests: float = Field(default=2.0, gt=0)
    """Requests in flight a replica that the autoscaler aims at."""
    max_ongoing_requests: int = Field(default=8, ge=1)
    """Requests in flight a replica takes; more wait in the queue of the caller."""
    max_queued_requests: int = Field(default=64, ge=1)
    """Requests that may wait, per caller. Beyond: 503 with Retry-After."""
    num_cpus: float = Field(default=0.5, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    upscale_delay_s: float = Field(default=5.0, ge=0)
    downscale_delay_s: float = Field(default=120.0, ge=0)

    def model_post_init(self, _: object) -> None:
        """Check what one field cannot say alone."""
        if self.max_replicas < self.min_replicas:
            raise ConfigError(f"max_replicas={self.max_replicas} is below min_replicas={self.min_replicas}.")
        if self.target_ongoing_requests >= self.max_ongoing_requests:
            raise ConfigError(
                f"target_ongoing_requests={self.target_ongoing_requests} must be below "
                f"max_ongoing_requests={self.max_ongoing_requests}, or the autoscaler never sees a reason to add a replica."
            )


class CoverageSettings(Config):
    """What happens when a shard of the index does not answer."""

    min_coverage: float = Field(default=1.0, gt=0.0, le=1.0)
    """Least share of the gallery's items that an answer must come from. 1 answers with 503 while a shard is down; below,
    answers say in ``coverage`` how much was searched."""
    timeout_s: float = Field(default=30.0, gt=0.0)
    """A shard that has not answered by then counts as down."""


class PageSettings(Config):
    """How the chat page begins."""

    mode: RetrieveMode = "auto"
    """What it answers with until somebody chooses; ``always`` for a model whose words are not to be read."""
    examples: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field((), max_length=6)
    """Requests offered above an empty conversation: such as this gallery and this model can answer."""


class ServeArgs(Config):
    """Arguments of :func:`serve.app.build_app`; the ``args`` of an application in a Serve config file."""

    model: str
    """URI of the model bundle."""
    index: str
    """URI of the gallery index; it must be built with this model's M_Q."""
    images: tuple[str, ...] = ()
    """URIs of the document shards that hold the gallery's pictures; by default those that the index names."""
    database: str = "sqlite:///chatsearch.db"
    """SQLAlchemy URL of the conversations: SQLite for one machine, PostgreSQL (extra ``postgres``) for a cluster."""
    allowed_hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")
    """Names, without ports, by which the service may be called; ``*`` allows all. Other names are refused, since a foreign
    web page can make a name of its own lead here."""
    page: PageSettings = PageSettings()
    limits: Limits = Limits()
    ingress_scaling: Scaling = Scaling(
        target_ongoing_requests=16, max_ongoing_requests=64, max_queued_requests=256, num_cpus=0.2
    )
    model_scaling: Scaling = Scaling()
    shard_scaling: Scaling = Scaling(target_ongoing_requests=4, max_ongoing_requests=16, num_cpus=0.2)
    torch_threads: int = Field(default=1, ge=1)
    """CPU threads of a model replica."""
    coverage: CoverageSettings = CoverageSettings()
    turn_timeout_s: float = Field(default=120.0, gt=0)
    """A turn that takes longer is ended with a problem document."""
    retry_after_s: float = Field(default=2.0, ge=0)
    """What a refused client is told to wait."""

    @field_validator("model", "index")
    @classmethod
    def _absolute(cls, value: str) -> str:
        # Replicas run in other folders than the driver.
        return resolve(value)

    @field_validator("images", "allowed_hosts", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("images")
    @classmethod
    def _all_absolute(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(resolve(uri) for uri in value)

    @field_validator("database")
    @classmethod
    def _absolute_sqlite(cls, value: str) -> str:
        if "://" not in value:
            raise ConfigError(f"database={value!r} is no URL. Write sqlite:///PATH or postgresql://USER@HOST/NAME.")
        path = value.removeprefix("sqlite:///")
        return value if path in (value, "", ":memory:") else f"sqlite:///{resolve(path)}"
