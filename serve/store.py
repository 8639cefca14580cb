"""Conversations in SQL: SQLite by default, PostgreSQL (with the extra ``postgres``) on a cluster.

Every method but ``close`` raises StorageError when the database fails; then nothing was changed.

Ids are unguessable and are the only key to a conversation. A stranger's id answers exactly as one that does not
exist. Deleting removes history and uploaded pictures; SQLite also overwrites the freed pages.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from chatsearch.converse.dialogue import Dialogue, Message, Picture
from chatsearch.converse.transcript import from_json, to_json
from chatsearch.errors import MissingInputError, StorageError, UnsupportedRequestError
from sqlalchemy.engine import Connection

_metadata = sa.MetaData()
_conversations = sa.Table(
    "conversations",
    _metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("transcript", sa.Text, nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
)
_uploads = sa.Table(
    "uploads",
    _metadata,
    sa.Column(
        "conversation_id", sa.String(64), sa.ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("content_hash", sa.String(64), primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)


class ConcurrentChangeError(UnsupportedRequestError):
    """The conversation was changed by another request in the meantime."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A stored conversation; ``revision`` counts its changes."""

    conversation_id: str
    revision: int
    dialogue: Dialogue
    created_at: datetime.datetime
    updated_at: datetime.datetime


class ConversationStore:
    """Opens the database and creates its tables where they are missing.

    Raises:
        StorageError: the database cannot be opened.
    """

    def __init__(self, url: str) -> None:
        try:
            self._engine = sa.create_engine(url, pool_pre_ping=True)
            if self._engine.dialect.name == "sqlite":
                sa.event.listen(self._engine, "connect", _set_up_sqlite)
                _make_folder(self._engine.url.database)
            try:
                _metadata.create_all(self._engine)
            except sa.exc.DBAPIError:  # another replica made the tables after we had looked
                _metadata.create_all(self._engine)
        except (OSError, sa.exc.SQLAlchemyError, ImportError) as error:
            where = sa.engine.make_url(url).render_as_string(hide_password=True)
            raise StorageError(
                f"Cannot open the conversation database {where}: {type(error).__name__}. "
                "Check the URL, that its driver is installed, that the folder can be written or the server is up."
            ) from error

    def create(self) -> Conversation:
        """A new, empty conversation."""
        now = datetime.datetime.now(datetime.UTC)
        made = Conversation(secrets.token_urlsafe(24), 0, Dialogue(), now, now)
        with self._transaction() as connection:
            connection.execute(
                _conversations.insert().values(
                    id=made.conversation_id,
                    revision=0,
                    transcript=json.dumps(to_json(made.dialogue)),
                    created_at=now,
                    updated_at=now,
                )
            )
        return made

    def load(self, conversation_id: str) -> Conversation:
        """One conversation.

        Raises:
            MissingInputError: there is none with this id.
        """
        with self._transaction() as connection:
            row = connection.execute(sa.select(_conversations).where(_conversations.c.id == conversation_id)).first()
        if row is None:
            raise _missing()
        dialogue = from_json(json.loads(row.transcript))
        return Conversation(row.id, row.revision, dialogue, row.created_at, row.updated_at)

    def save(
        self, before: Conversation, dialogue: Dialogue, uploads: Mapping[str, bytes] | None = None
    ) -> Conversation:
        """Replace the dialogue; keep new uploads and drop those that no step shows any more.

        Raises:
            ConcurrentChangeError: somebody else saved since ``before`` was loaded.
            MissingInputError: the conversation was deleted.
        """
        now = datetime.datetime.now(datetime.UTC)
        conversation_id, revision = before.conversation_id, before.revision + 1
        with self._transaction() as connection:
            changed = connection.execute(
                _conversations.update()
                .where(_conversations.c.id == conversation_id, _conversations.c.revision == before.revision)
                .values(revision=revision, transcript=json.dumps(to_json(dialogue)), updated_at=now)
            ).rowcount
            if not changed:
                self._explain_missing_row(connection, conversation_id)
            self._keep_uploads(connection, conversation_id, message_images(dialogue), uploads or {})
        return Conversation(conversation_id, revision, dialogue, before.created_at, now)

    def uploads(self, conversation_id: str) -> dict[str, bytes]:
        """The pictures uploaded to a conversation, by content hash."""
        query = sa.select(_uploads.c.content_hash, _uploads.c.data).where(_uploads.c.conversation_id == conversation_id)
        with self._transaction() as connection:
            return {row.content_hash: bytes(row.data) for row in connection.execute(query)}

    def upload(self, conversation_id: str, content_hash: str) -> bytes:
        """One uploaded picture.

        Raises:
            MissingInputError: this conversation has no such picture.
        """
        query = sa.select(_uploads.c.data).where(
            _uploads.c.conversation_id == conversation_id, _uploads.c.content_hash == content_hash
        )
        with self._transaction() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise _missing()
        return bytes(row.data)

    def delete(self, conversation_id: str) -> None:
        """Remove a conversation with its history and uploads.

        Raises:
            MissingInputError: there is none with this id.
        """
        with self._transaction() as connection:
            connection.execute(_uploads.delete().where(_uploads.c.conversation_id == conversation_id))
            gone = connection.execute(_conversations.delete().where(_conversations.c.id == conversation_id)).rowcount
        if not gone:
            raise _missing()

    def ping(self) -> None:
        """Ask the database something; raises StorageError if it does not answer."""
        with self._transaction() as connection:
            connection.execute(sa.select(1))

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """A connection whose changes are kept together, or not at all if anything goes wrong."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or type(error).__name__  # the driver's words, without the statement
            raise StorageError(
                f"The conversation database failed: {' '.join(str(cause).split())[:300]}. Nothing was changed. Check that it "
                "is up, is not locked by another program and has room."
            ) from error

    @staticmethod
    def _explain_missing_row(connection: Connection, conversation_id: str) -> None:
        query = sa.select(_conversations.c.revision).where(_conversations.c.id == conversation_id)
        if connection.execute(query).first() is None:
            raise _missing()
        raise ConcurrentChangeError(
            "The conversation was changed by another request while this one was answered, so nothing was saved. "
            "Load it again and repeat."
        )

    @staticmethod
    def _keep_uploads(
        connection: Connection, conversation_id: str, wanted: set[str], uploads: Mapping[str, bytes]
    ) -> None:
        mine = _uploads.c.conversation_id == conversation_id
        held = {row.content_hash for row in connection.execute(sa.select(_uploads.c.content_hash).where(mine))}
        if held - wanted:
            connection.execute(_uploads.delete().where(mine, _uploads.c.content_hash.in_(held - wanted)))
        rows = [
            {"conversation_id": conversation_id, "content_hash": content_hash, "data": data}
            for content_hash, data in uploads.items()
            if content_hash in wanted - held
        ]
        if rows:
            connection.execute(_uploads.insert(), rows)


def message_images(dialogue: Dialogue) -> set[str]:
    """Content hashes of the pictures that messages of the dialogue show."""
    return {
        piece.content_hash
        for step in dialogue.steps
        if isinstance(step.action, Message)
        for piece in step.action.pieces
        if isinstance(piece, Picture)
    }


def _missing() -> MissingInputError:
    return MissingInputError("There is no such conversation or picture.")


def _make_folder(database: str | None) -> None:
    if database and database != ":memory:":
        Path(database).parent.mkdir(parents=True, exist_ok=True)


def _set_up_sqlite(connection: object, _: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    # WAL: readers do not wait for a writer. secure_delete: what was deleted is overwritten, not only unlinked.
    for pragma in ("journal_mode=WAL", "foreign_keys=ON", "secure_delete=ON", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
