"""Column contracts of the Parquet files that a shard set holds."""

from __future__ import annotations

import pyarrow as pa

from distill_ray.config.data import SPLITS as SPLITS
from distill_ray.data.conversation import TURNS

TEXT = pa.schema(
    [
        ("row_id", pa.string()),  # stream and content key; the same in every run
        ("key", pa.string()),  # SHA-256 of the normalised text
        ("stream", pa.string()),
        ("split", pa.string()),  # train, validation or test
        # As it was read: another tokenizer can start from here. Of a conversation, its words.
        ("text", pa.string()),
        ("label", pa.string()),  # null where there is none
        ("group", pa.string()),
        ("turns", TURNS),  # of a conversation; null for a text
        ("tools", pa.string()),  # JSON; null where there are none
    ]
)

PACKED = pa.schema(
    [
        ("row_id", pa.string()),  # stream, split, bucket and number
        ("input_ids", pa.list_(pa.int32())),
        ("position_ids", pa.list_(pa.int32())),  # restart at 0 with every sample
        ("label_mask", pa.list_(pa.bool_())),  # True where the next token is supervised by the data
        ("teacher_mask", pa.list_(pa.bool_())),  # True where the teacher's distribution is imitated
        ("sources", pa.list_(pa.string())),  # row_id of each sample in it, in order
    ]
)

TARGETS = pa.schema(
    [
        ("row_id", pa.string()),  # as in PACKED; rows without a supervised token are left out
        ("tokens", pa.int32()),  # its supervised predictions, at least one, in their order
        ("start", pa.int32()),  # place of the first of them in the payload
        # Sparse targets as bytes, compressed already. Short rows share a payload: it is with the
        # first of them, where start is 0, and null with the others.
        ("payload", pa.binary()),
    ]
)


def stream_of(row_id: str) -> str:
    """The stream that a packed row belongs to; a stream's name has no colon."""
    return row_id.partition(":")[0]
