"""The warm start of the tiny language model: a byte-level vocabulary and a small Llama on the scenes' own text.

Shapes: R rows of L positions.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import torch
from torch import nn

from chatsearch.corpora.base import Sample
from chatsearch.corpora.config import ScenesConfig, ScenesCounts
from chatsearch.corpora.open import open_corpus
from chatsearch.data.coin import Coin
from chatsearch.data.example import Example, build_example
from chatsearch.data.pack import Batch, pack
from chatsearch.data.template import escape
from chatsearch.data.tokenizer import ChatTokenizer, train_byte_bpe
from chatsearch.errors import ConfigError, NonFiniteLossError
from chatsearch.model.config import LanguageConfig
from chatsearch.model.language import LanguageModel
from chatsearch.model.objective import word_loss
from chatsearch.schedule import learning_rate
from chatsearch.train.config import LanguageTrainingConfig
from chatsearch.types import Document, Kind

_ROLE_LINE = "USER: {} ASSISTANT: {}"


def scenes_text(config: LanguageTrainingConfig) -> list[Document]:
    """Documents of words alone, of the training split."""
    return _documents(config.seed, ScenesCounts(text=config.num_documents))


def train_tokenizer(config: LanguageTrainingConfig) -> ChatTokenizer:
    """A vocabulary over the words of all kinds of scenes documents: dialogues are to be short, too.

    Raises:
        ConfigError: the text does not hold enough to fill the vocabulary.
    """
    share = max(config.num_documents // 8, 1)
    counts = ScenesCounts(
        text=config.num_documents // 2,
        caption=share,
        question=share,
        edit=share,
        chatsearch_t=share,
        chatsearch_m=share,
    )
    texts = [
        escape(segment.text)
        for document in _documents(config.seed, counts)
        for segment in document.segments
        if segment.text is not None
    ]
    roles = [_ROLE_LINE.format(*pair) for pair in zip(texts[::2], texts[1::2], strict=False)]
    tokenizer = train_byte_bpe(itertools.chain(texts, roles), config.vocab_size)
    if tokenizer.text_vocab_size != config.vocab_size:
        raise ConfigError(
            f"{config.num_documents} documents fill a vocabulary of {tokenizer.text_vocab_size}, vocab_size is {config.vocab_size}. "
            "Lower vocab_size or raise num_documents."
        )
    return tokenizer


def pretrain_language(
    config: LanguageTrainingConfig, tokenizer: ChatTokenizer, *, progress: Callable[[str], None] = print
) -> tuple[LanguageModel, float]:
    """Train next-word prediction.

    Returns:
        The model, and its loss in nats a word over the last tenth of the steps.

    Raises:
        NonFiniteLossError: the loss left the numbers; names the step.
    """
    shape = language_config(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = LanguageModel(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    model.train()
    recent: list[float] = []
    for step, batch in enumerate(itertools.islice(_batches(config, tokenizer), config.steps)):
        rate = learning_rate(step, peak=config.learning_rate, warmup_steps=config.steps // 10, total_steps=config.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        hidden_RLH = model(model.embed(torch.from_numpy(batch.input_ids)), torch.from_numpy(batch.position_ids))
        loss = word_loss(hidden_RLH, torch.from_numpy(batch.labels), model.logits, positions_per_chunk=1 << 20).mean()
        if not torch.isfinite(loss):
            raise NonFiniteLossError(
                f"The loss of the language model is {float(loss.detach())} at step {step}. Lower learning_rate={config.learning_rate}."
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent = [*recent, float(loss.detach())][-max(config.steps // 10, 1) :]
        if (step + 1) % 50 == 0 or step + 1 == config.steps:
            progress(f"language step {step + 1}/{config.steps}: loss {recent[-1]:.3f} nats a word")
    model.eval()
    return model, sum(recent) / len(recent) if recent else float("nan")


def language_config(config: LanguageTrainingConfig) -> LanguageConfig:
    """Shape of the model."""
    return LanguageConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        max_positions=config.max_positions,
    )


def _documents(seed: int, counts: ScenesCounts) -> list[Document]:
    corpus = open_corpus(ScenesConfig(seed=seed, split="train", kinds=counts))
    records = (record for partition in corpus.partitions() for record in corpus.read(partition))
    return [record.document for record in records if isinstance(record, Sample)]


def _batches(config: LanguageTrainingConfig, tokenizer: ChatTokenizer) -> Iterator[Batch]:
    """Packed rows of shuffled documents, without end."""
    documents = scenes_text(config)
    assert all(document.kind == Kind.TEXT for document in documents)
    for epoch in itertools.count():
        random.Random(f"{config.seed}/{epoch}").shuffle(documents)
        room = config.batch_size * config.length
        held: list[Example] = []
        used = 0
        for document in documents:
            example = build_example(
                document,
                tokenizer,
                1,
                max_length=config.length,
                answer_only=False,
                coin=Coin(config.seed, document.document_id, epoch),
            )
            # A row is left when the next document does not fit: on average it stays a tenth empty.
            if used + len(example) > 0.9 * room:
                yield pack(held, range(len(held)), length=config.length, pad_id=tokenizer.pad_id)
                held, used = [], 0
            held.append(example)
            used += len(example)
