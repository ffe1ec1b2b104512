"""Everyday conversations of two people, from `chitchat-dataset`: text of no particular domain."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path


def text(*, rows: int | None = None) -> Iterator[dict[str, str]]:
    """Yield one conversation a row, one message a line, in the order of the dataset."""
    # The package's own readers leave the file open and drop who spoke when; the data is plain JSON.
    spec = find_spec("chitchat_dataset")
    if spec is None or spec.origin is None:
        raise ImportError(
            "The dialogue example needs chitchat-dataset: pip install 'distill-ray[examples]'"
        )
    data = json.loads(Path(spec.origin).with_name("dataset.json").read_text(encoding="utf-8"))
    documents = (
        "\n".join(
            " ".join(utterance["text"].strip() for utterance in message).strip()
            for message in conversation["messages"]
        )
        for conversation in data.values()
    )
    for document in islice(filter(None, documents), rows):
        yield {"text": document}
