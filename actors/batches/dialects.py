"""Which words the results of a batch have: those of the dialect in which it was asked for."""

from __future__ import annotations

from ...transport.store.batch_interface import StoredBatch
from .openai_words import OpenAiWords
from .road import Words

_OPENAI = OpenAiWords()


def words_of(batch: StoredBatch) -> Words:
    return _OPENAI
