"""Tokenizers: loaded, or trained on the run's own text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

END = "<|end|>"


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
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, bos_token=END, pad_token=END
    )


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids without special tokens.

    A prompt and its answer are encoded apart and joined, so a prompt's ids are always a prefix.
    """
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def start_ids(tokenizer: Any) -> list[int]:
    """The start token where the tokenizer puts one before every text, as its model was trained."""
    first = list(tokenizer("", verbose=False)["input_ids"])[:1]
    return first if first and first[0] == tokenizer.bos_token_id else []


def end_id(tokenizer: Any) -> int:
    """Id of the token that ends a sample."""
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-sequence token")
    return int(tokenizer.eos_token_id)
