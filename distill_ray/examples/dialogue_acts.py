"""Which act a customer's utterance performs, from the MultiWOZ corpus inside `convlab`.

The package's source archive holds the utterances of MultiWOZ that perform a single act, under
their act, with the slot values blanked ("#HOTEL-INFORM-AREA#"). The archive is read as it is:
installing the package would bring dozens of old dependencies. It does not say which dialogue an
utterance is from, so the `group` of a row is its wording, which keeps near copies together. Nor
does it hold a second corpus to serve as a shifted set: MultiWOZ contains its CamRest676.
"""

import hashlib
import json
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path

Row = dict[str, str]
Utterances = dict[str, dict[str, list[str]]]
"""Act → slots → utterances, as the archive has them."""

ACTS = (
    "Attraction-Inform",
    "Attraction-Request",
    "Hospital-Inform",
    "Hospital-Request",
    "Hotel-Inform",
    "Hotel-Request",
    "Police-Inform",
    "Police-Request",
    "Restaurant-Inform",
    "Restaurant-Request",
    "Taxi-Inform",
    "Taxi-Request",
    "Train-Inform",
    "Train-Request",
    "general-bye",
    "general-greet",
    "general-thank",
)
"""The acts of a customer, keyed `A` to `Q`."""

ARCHIVE = "convlab-3.0.1.tar.gz"
PLACE = "DISTILL_RAY_CONVLAB"
"""Environment variable that says where the archive is, if not in the checkout's `data/`."""

FETCH = "pip download --no-deps --no-binary :all: --dest data convlab==3.0.1"

_FOLDER = "convlab-3.0.1/convlab/nlg/template"
_CUSTOMER = f"{_FOLDER}/multiwoz/auto_user_template_nlg.json"
_ASSISTANT = f"{_FOLDER}/multiwoz/auto_system_template_nlg.json"

_BLANK = re.compile(r"#(?:\w+-)*(\w+)#")
_NO_WORD = re.compile(r"\[\w+\]|[^a-z ]")


def labelled(*, rows: int = 12000) -> Iterator[Row]:
    """Yield utterances of customers with the key of their act, `A` to `Q`."""
    yield from islice(_rows(), rows)


def text() -> Iterator[Row]:
    """Yield what the assistant says, an utterance a row; acts are not named."""
    utterances = {
        plain(u) for slots in _read(_ASSISTANT).values() for us in slots.values() for u in us
    }
    for utterance in sorted(utterances, key=_shuffle_key):
        yield {"text": utterance, "group": _wording(utterance)}


def plain(utterance: str) -> str:
    """Name an utterance's blanks by their slot alone: the rest of a name is the label."""
    return " ".join(_BLANK.sub(lambda blank: f"[{blank[1].lower()}]", utterance).split())


def key_of(act: str) -> str:
    """Look up the label of one of `ACTS`."""
    return chr(ord("A") + ACTS.index(act))


@cache
def _rows() -> tuple[Row, ...]:
    """Make rows in a fixed shuffled order, without utterances that appear under several acts."""
    acts: defaultdict[str, set[str]] = defaultdict(set)
    for act, slots in _read(_CUSTOMER).items():
        for utterance in (u for utterances in slots.values() for u in utterances):
            acts[plain(utterance)].add(act)
    return tuple(
        {"text": utterance, "label": key_of(min(acts[utterance])), "group": _wording(utterance)}
        for utterance in sorted(acts, key=_shuffle_key)
        if utterance and len(acts[utterance]) == 1
    )


def _wording(utterance: str) -> str:
    """Keep letters only, so that near copies that differ by a value or a comma share a wording."""
    return " ".join(_NO_WORD.sub(" ", utterance.lower()).split()) or "no words"


def _read(member: str) -> Utterances:
    """Read a file in the archive."""
    default = Path(__file__).parents[2] / "data" / ARCHIVE
    path = Path(os.environ.get(PLACE, default))
    if not path.is_file():
        raise FileNotFoundError(
            f"The dialogue acts example needs {path}. In the checkout, fetch it (21 MB) with\n"
            f"  {FETCH}\nor name the archive in {PLACE}."
        )
    with tarfile.open(path) as archive:
        file = archive.extractfile(member)
        assert file is not None, f"{member} is a folder"
        templates: Utterances = json.load(file)
        return templates


def _shuffle_key(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()
