"""Everyday conversations of two people, from `chitchat-dataset`: text of no particular domain."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any


def text(*, rows: int | None = None) -> Iterator[dict[str, str]]:
    """One conversation a row, one message a line, in the order of the dataset."""
    conversations = json.loads(_data_file().read_text(encoding="utf-8")).values()
    documents = ("\n".join(_messages(conversation)) for conversation in conversations)
    for document in islice(filter(None, documents), rows):
        yield {"text": document}


def _messages(conversation: dict[str, Any]) -> Iterator[str]:
    for message in conversation["messages"]:
        yield " ".join(utterance["text"].strip() for utterance in message).strip()


def _data_file() -> Path:
    # The package's own readers leave the file open and drop who spoke when; the data is plain JSON.
    spec = find_spec("chitchat_dataset")
    if spec is None or spec.origin is None:
        raise ImportError(
            "The dialogue example needs chitchat-dataset: pip install 'distill-ray[examples]'"
        )
    return Path(spec.origin).with_name("dataset.json")
