"""Decoding one answer with a KV cache: words until ``</s>``, or until the model decides to retrieve.

Shapes: L positions of the prompt, H hidden width, I pictures, D numbers of f_CLS, T tokens of width E,
V words with the control tokens, d retrieval width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from chatsearch.converse.config import AnswerOptions
from chatsearch.converse.pictures import PictureFeatures
from chatsearch.converse.prompt import Prompt
from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.model.searcher import ChatSearcher


@dataclass(frozen=True, slots=True)
class Word:
    """One text token."""

    token: int


@dataclass(frozen=True, slots=True)
class Query:
    """``[IMG]`` was reached: the unit query embedding read at it, float32 of width d."""

    embedding_d: NDArray
    forced: bool


@dataclass(frozen=True, slots=True)
class Stop:
    """The answer is over: closed by the model, or cut because there is no room left."""

    reason: Literal["stop", "length"]


class Decoder:
    """Greedy or sampled decoding with one searcher. Holds no state between answers; threads may share it."""

    def __init__(self, searcher: ChatSearcher, tokenizer: ChatTokenizer) -> None:
        self.searcher = searcher.eval()
        self.tokenizer = tokenizer
        self._device = searcher.query_head.weight.device
        # Never answers: padding and begin mean nothing here, and [/IMG] only ever closes a block that we complete.
        mute = {tokenizer.pad_id, tokenizer.bos_id, *tokenizer.control_ids, tokenizer.end_img_id} - {
            None,
            tokenizer.eos_id,
        }
        self._mute = torch.tensor(sorted(mute), device=self._device)

    @torch.inference_mode()
    def decode(
        self, prompt: Prompt, pictures: PictureFeatures, options: AnswerOptions, *, force_retrieval: bool, max_new: int
    ) -> Iterator[Word | Query | Stop]:
        """Words one by one, then exactly one Query or Stop.

        Args:
            prompt: the context, left open for the assistant.
            pictures: features of the prompt's pictures, in its order.
            options: temperature, seed and retrieve mode.
            force_retrieval: take ``[IMG]`` as the first token whatever the model thinks.
            max_new: most words.
        """
        if force_retrieval:
            prompt = prompt.followed_by(self.tokenizer.img_id)
        cache = self.searcher.new_cache()
        state_H = self.searcher.decode_step(self.embed(prompt, pictures), cache)[0, -1]
        if force_retrieval:
            yield self._query(state_H, forced=True)
            return
        generator = torch.Generator(device=self._device).manual_seed(options.seed)
        for _ in range(max_new):
            token = self._next(state_H, options, generator)
            if token == self.tokenizer.eos_id:
                yield Stop("stop")
                return
            if token != self.tokenizer.img_id:
                yield Word(token)
            step_11H = self.searcher.language.embed(torch.tensor([[token]], device=self._device))
            state_H = self.searcher.decode_step(step_11H, cache)[0, -1]
            if token == self.tokenizer.img_id:
                yield self._query(state_H, forced=False)
                return
        yield Stop("length")

    def embed(self, prompt: Prompt, pictures: PictureFeatures) -> Tensor:
        """Input embeddings of the prompt, (1, L, H)."""
        ids_1L = torch.tensor([prompt.input_ids], device=self._device)
        if not prompt.image_hashes:
            return self.searcher.language.embed(ids_1L)
        columns_I = torch.tensor(prompt.image_positions, device=self._device)
        cls_ID, tokens_ITE = pictures.cls_ID.to(self._device), pictures.tokens_ITE.to(self._device)
        return self.searcher.input_embeddings(ids_1L, torch.zeros_like(columns_I), columns_I, cls_ID, tokens_ITE)

    def _next(self, state_H: Tensor, options: AnswerOptions, generator: torch.Generator) -> int:
        logits_V = self.searcher.word_logits(state_H).float()
        logits_V[self._mute] = -torch.inf
        if options.retrieve == "never":
            logits_V[self.tokenizer.img_id] = -torch.inf
        if options.temperature == 0:
            return int(logits_V.argmax())
        chances_V = torch.softmax(logits_V / options.temperature, dim=-1)
        return int(torch.multinomial(chances_V, 1, generator=generator))

    def _query(self, state_H: Tensor, *, forced: bool) -> Query:
        return Query(self.searcher.query_embedding(state_H).cpu().numpy(), forced)
