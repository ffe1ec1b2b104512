"""Tokenizers: loaded, or trained on the run's own text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from distill_ray.data.control_tokens import ControlTokens

END = "<|end|>"
MOST_LETTERS = 1000
"""Of a word that a tokenizer is trained on, as encoded files have it and no language does."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer (Sennrich et al. 2016, arXiv 1508.07909) for transformers.

    Args:
        texts: what it is trained on.
        vocab_size: tokens in all; fewer when the text doesn't have so many merges.

    Returns:
        A `PreTrainedTokenizerFast` whose end, start and padding token is `<|end|>`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(map(_without_long_words, texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, bos_token=END, pad_token=END
    )


def _without_long_words(text: str) -> str:
    """The text with a space in each run of `MOST_LETTERS`: training is quadratic in a word."""
    if len(text) <= MOST_LETTERS or max(map(len, text.split()), default=0) <= MOST_LETTERS:
        return text
    return re.sub(rf"\S{{{MOST_LETTERS}}}", r"\g<0> ", text)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text alone: no token is added, and a control token spelled in it is text.

    A prompt and its answer are encoded apart and joined, so a prompt's ids are always a prefix.

    Raises:
        ValueError: the tokenizer makes a control token of ordinary text.
    """
    return encode_batch(tokenizer, [text])[0]


def encode_batch(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, as `encode` makes them, in one call of the tokenizer.

    Raises:
        ValueError: the tokenizer makes a control token of ordinary text.
    """
    if tokenizer.is_fast:
        encoded = _encode_fast(tokenizer.backend_tokenizer, texts)
    else:
        encoded = [
            list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
            for text in texts
        ]
    control = _control_ids(tokenizer)
    return [
        ids if control.isdisjoint(ids) else _without_control_tokens(tokenizer, text)
        for text, ids in zip(texts, encoded, strict=True)
    ]


def _without_control_tokens(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text that the tokenizer's own vocabulary takes for a control token."""
    return ControlTokens(tokenizer, "").spelling([text]).encode(text).ids


def _encode_fast(backend: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids without offsets, masks and words, which take longer to copy than ids to find."""
    truncation, padding = backend.truncation, backend.padding
    splits_control_tokens = backend.encode_special_tokens
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    try:
        encodings = backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]
    finally:
        backend.encode_special_tokens = splits_control_tokens
        if truncation is not None:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)


_CONTROL_IDS: WeakKeyDictionary[Any, tuple[int, frozenset[int]]] = WeakKeyDictionary()


def _control_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of special tokens, except one that only stands for what the vocabulary doesn't hold."""
    size = len(tokenizer)
    cached = _CONTROL_IDS.get(tokenizer)
    if cached is None or cached[0] != size:
        added = tokenizer.added_tokens_decoder.items()
        special = {*tokenizer.all_special_ids, *(i for i, token in added if token.special)}
        ends = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
        cached = (size, frozenset(special - ({tokenizer.unk_token_id} - ends)))
        _CONTROL_IDS[tokenizer] = cached
    return cached[1]


def start_ids(tokenizer: Any) -> list[int]:
    """The start token where the tokenizer puts one before every text, as its model was trained."""
    first = list(tokenizer("", verbose=False)["input_ids"])[:1]
    return first if first and first[0] == tokenizer.bos_token_id else []


def end_id(tokenizer: Any) -> int:
    """Id of the token that ends a sample."""
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-sequence token")
    return int(tokenizer.eos_token_id)
