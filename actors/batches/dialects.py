"""Which words the results of a batch have: those of the dialect in which it was asked for."""

from __future__ import annotations

from ...transport.store.batch_interface import Dialect, StoredBatch
from .messages_words import MessagesWords
from .openai_words import OpenAiWords
from .road import Words

_WORDS: dict[Dialect, Words] = {"openai": OpenAiWords(), "anthropic": MessagesWords()}


def words_of(batch: StoredBatch) -> Words:
    return _WORDS[batch.dialect]
