"""A text tokenizer that keeps words and control apart.

Ids 0 .. V-1 are the text vocabulary; ``[IMG]`` is V and ``[/IMG]`` is V+1, outside of what any text can
spell. Begin, end and padding are taken from the text vocabulary's own special tokens, and text that
contains their spelling is encoded as ordinary characters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from chatsearch.errors import ConfigError, CorruptArtefactError
from chatsearch.manifest import Artefact
from chatsearch.storage import Folder

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
_METASPACE = "▁"


class ChatTokenizer:
    """Wraps one ``tokenizers.Tokenizer``; torch-free, picklable, saved as two JSON files.

    Attributes:
        bos_id: id that opens a document, or None for vocabularies that have no such token.
        eos_id: id that closes each answer, the ``</s>`` of the template.
        pad_id: id held by input slots whose embedding is never looked up.
        text_vocab_size: V, the number of text ids including specials.
        control_ids: ids that text never yields.
    """

    def __init__(self, tokenizer_json: str, *, bos: str | None, eos: str, pad: str | None = None) -> None:
        """Build from the text of a ``tokenizer.json`` and the spelling of its specials.

        Args:
            tokenizer_json: as the ``tokenizers`` library writes it.
            bos: special that opens a document; None for none.
            eos: special that closes an answer.
            pad: special for unused slots; None takes ``eos``.

        Raises:
            ConfigError: a special is not in the vocabulary, or text can spell a control id.
            CorruptArtefactError: the JSON is no tokenizer.
        """
        self._specials = {"bos_token": bos, "eos_token": eos, "pad_token": pad or eos}
        self._tokenizer = _parse(tokenizer_json)
        # Every added token counts as special, so that none of them is matched in free text.
        added = self._tokenizer.get_added_tokens_decoder()
        missing = [t for t in self._specials.values() if t is not None and self._tokenizer.token_to_id(t) is None]
        if missing:
            raise ConfigError(
                f"The tokenizer has no token {missing[0]!r}. Name tokens it has; its specials are "
                f"{', '.join(repr(str(t.content)) for t in added.values()) or 'none'}."
            )
        spellings = [t.content for t in added.values()] + [t for t in self._specials.values() if t is not None]
        self._tokenizer.add_special_tokens(
            [AddedToken(s, special=True, normalized=False) for s in dict.fromkeys(spellings)]
        )
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # The unknown token stands for characters outside the vocabulary: text may yield it, it controls nothing.
        unknown = getattr(self._tokenizer.model, "unk_token", None)
        self.control_ids = frozenset(self._id(s) for s in spellings if s != unknown)
        self.text_vocab_size = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.bos_id = None if bos is None else self._id(bos)
        self.eos_id = self._id(eos)
        self.pad_id = self._id(pad or eos)
        # Metaspace vocabularies (Llama) put the space before a word themselves; byte-level ones need it in the text.
        self._adds_space = self._tokenizer.encode("a", add_special_tokens=False).tokens[:1] in (["▁a"], [_METASPACE])
        for spelling in spellings:
            if self.control_ids & set(self.encode(spelling)):
                raise ConfigError(
                    f"Text that spells {spelling!r} is encoded as a control token by this tokenizer, so users could forge "
                    "turns. Use a tokenizer whose merges do not reach its special tokens."
                )

    def _id(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        assert found is not None, token
        return found

    @property
    def img_id(self) -> int:
        """Id of ``[IMG]``: opens an image block, and is the model's decision to retrieve."""
        return self.text_vocab_size

    @property
    def end_img_id(self) -> int:
        """Id of ``[/IMG]``: closes an image block."""
        return self.text_vocab_size + 1

    @property
    def vocab_size(self) -> int:
        """Number of ids with the two image tokens: V + 2."""
        return self.text_vocab_size + 2

    def encode(self, text: str, *, continues: bool = False) -> list[int]:
        """Ids of free text; never a control id, whatever the text spells.

        Args:
            text: any string; lone surrogates become question marks.
            continues: the text follows other words, so a space stands before it.
        """
        text = text.encode("utf-8", "replace").decode("utf-8")
        if not text:
            return []
        if continues and not self._adds_space:
            text = " " + text
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; control ids and image tokens are left out."""
        return self._tokenizer.decode([i for i in ids if i < self.text_vocab_size], skip_special_tokens=True)

    def save(self, folder: Folder) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``."""
        folder.write_bytes(TOKENIZER_FILE, self._tokenizer.to_str().encode())
        folder.write_bytes(CONFIG_FILE, (json.dumps(self._specials, indent=1) + "\n").encode())

    @classmethod
    def load(cls, folder: Folder) -> ChatTokenizer:
        """Read a folder with ``tokenizer.json`` and ``tokenizer_config.json``: ours, or a published model's.

        Raises:
            MissingInputError: a file is not there.
            CorruptArtefactError: a file is not what its name says.
            ConfigError: the configuration names no end token, or one that is not in the vocabulary.
        """
        return cls._read(folder, folder.read_bytes)

    @classmethod
    def load_checked(cls, artefact: Artefact) -> ChatTokenizer:
        """Read the tokenizer of an artefact, both files checked against its manifest.

        Raises:
            CorruptArtefactError: a file is damaged or missing.
        """
        return cls._read(artefact.folder, artefact.read_checked)

    @classmethod
    def _read(cls, folder: Folder, read: Callable[[str], bytes]) -> ChatTokenizer:
        try:
            config = json.loads(read(CONFIG_FILE))
            text = read(TOKENIZER_FILE).decode()
        except ValueError as error:
            raise CorruptArtefactError(f"{folder} holds a damaged tokenizer: {error}. Write it again.") from error
        eos = _spelling(config.get("eos_token"))
        if eos is None:
            raise ConfigError(f"{folder.path(CONFIG_FILE)} names no eos_token. Add the token that closes an answer.")
        bos, pad = _spelling(config.get("bos_token")), _spelling(config.get("pad_token"))
        return cls(text, bos=bos, eos=eos, pad=pad)

    def __reduce__(self) -> tuple[Any, ...]:
        # The library's own pickling forgets encode_special_tokens, so a copy on a worker would let text spell control ids.
        return _rebuild, (self._tokenizer.to_str(), self._specials)


def train_byte_bpe(texts: Iterable[str], vocab_size: int) -> ChatTokenizer:
    """Train a byte-level BPE with ``<pad>``, ``<s>`` and ``</s>``; the same texts give the same tokenizer.

    Args:
        texts: training text; every byte is in the alphabet, so no text is ever unknown.
        vocab_size: V, at least 259 (256 bytes and three specials).

    Raises:
        ConfigError: the vocabulary cannot hold the bytes and the specials.
    """
    specials = ["<pad>", "<s>", "</s>"]
    if vocab_size < 256 + len(specials):
        raise ConfigError(f"vocab_size {vocab_size} is below 259: 256 bytes and {len(specials)} specials. Raise it.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return ChatTokenizer(tokenizer.to_str(), bos="<s>", eos="</s>", pad="<pad>")


def _parse(tokenizer_json: str) -> Tokenizer:
    try:
        return Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # the library raises bare Exception
        raise CorruptArtefactError(f"Not a tokenizer.json: {error}. Write the tokenizer again.") from error


def _rebuild(tokenizer_json: str, specials: dict[str, Any]) -> ChatTokenizer:
    return ChatTokenizer(
        tokenizer_json, bos=specials["bos_token"], eos=specials["eos_token"], pad=specials["pad_token"]
    )


def _spelling(value: Any) -> str | None:
    """Published configurations write a special as a string or as an object with its ``content``."""
    return value["content"] if isinstance(value, dict) else value
