"""Which chapter of ICD-10-CM a diagnosis belongs to, from `simple-icd-10-cm`.

Every row carries the three-character category as its `group`: siblings such as "Fracture of left
femur" and "Fracture of right femur" differ by a word, so a split must keep them together.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType

Row = dict[str, str]

PER_CATEGORY = 8
"""Most diagnoses of one category; without it injuries would be a quarter of the rows."""

_CODE = re.compile(r"\b[A-Z]\d[0-9A-Z](?:\.[0-9A-Z]+)?(?:\.?-)?(?![a-z])")
_EMPTY_BRACKETS = re.compile(r"\s*[(\[][\s,;-]*[)\]]")
_CODING_RULE = re.compile(r"\b(category|categories|code|coded|codes|classifiable|conditions in)\b")
_FILLER = re.compile(r"\b(nos|nec|unspecified)\b|[^a-z0-9 ]")


@dataclass(frozen=True)
class Diagnosis:
    """One category or subcategory of the classification."""

    code: str
    text: str
    label: str
    group: str


def labelled(*, rows: int = 3000) -> Iterator[Row]:
    """Yield diagnoses with the key of their chapter, `A` for chapter 1 to `V` for chapter 22."""
    for item in _diagnoses()[:rows]:
        yield {"text": item.text, "label": item.label, "group": item.group}


def prompts(*, skip: int = 3000, rows: int | None = None) -> Iterator[Row]:
    """Yield diagnoses without a label: those after the first `skip`, which `labelled` yields."""
    stop = None if rows is None else skip + rows
    for item in _diagnoses()[skip:stop]:
        yield {"text": item.text, "group": item.group}


def shifted(*, rows: int | None = None) -> Iterator[Row]:
    """Yield synonyms that coders meet in practice, with the chapter of their diagnosis.

    They are the inclusion terms of the classification ("Indigestion" for "Functional dyspepsia").
    A term of several chapters has no answer, so it is left out.
    """
    icd = _icd()
    terms = [
        (term, item)
        for item in _diagnoses()
        for term in icd.get_inclusion_term(item.code)[:1]
        if _is_rewording(term, item.text)
    ]
    chapters: dict[str, set[str]] = {}
    for term, item in terms:
        chapters.setdefault(term.casefold(), set()).add(str(item.label))
    synonyms = (
        {"text": term, "label": item.label, "group": item.group}
        for term, item in terms
        if len(chapters[term.casefold()]) == 1
    )
    for count, row in enumerate(synonyms):
        if rows is not None and count >= rows:
            return
        yield row


def text() -> Iterator[Row]:
    """Yield the classification as prose: each entry under its block, with notes and children.

    Neither the codes nor the chapters are named, so the labels cannot be read from it.
    """
    icd = _icd()
    for code in _codes():
        notes = {
            "Includes": icd.get_includes(code),
            "Also called": icd.get_inclusion_term(code),
            "Not": icd.get_excludes1(code) + icd.get_excludes2(code),
        }
        lines = [f"{heading}: {'; '.join(terms)}" for heading, terms in notes.items() if terms]
        lines += [
            f"- {icd.get_description(child)}"
            for child in icd.get_children(code)
            if not icd.is_extended_subcategory(child)
        ]
        if not lines:
            continue  # The parent's entry has its title already.
        title = f"{icd.get_description(icd.get_parent(code))}: {icd.get_description(code)}"
        entry = "\n".join([title, *lines])
        document = _EMPTY_BRACKETS.sub("", _CODE.sub("", entry)).strip()
        if document:
            yield {"text": document, "group": code[:3]}


def _is_rewording(term: str, description: str) -> bool:
    """Whether a term names a diagnosis in other words than its description."""
    if _CODING_RULE.search(term.lower()) or _CODE.search(term):
        return False
    return not _words(term) <= _words(description)


def _words(text: str) -> set[str]:
    return set(_FILLER.sub(" ", text.lower()).split())


@cache
def _diagnoses() -> tuple[Diagnosis, ...]:
    """Choose up to `PER_CATEGORY` diagnoses of each category, in a fixed shuffled order."""
    icd = _icd()
    by_group: defaultdict[str, list[str]] = defaultdict(list)
    for code in sorted(_codes(), key=_shuffle_key):
        if len(by_group[code[:3]]) < PER_CATEGORY:
            by_group[code[:3]].append(code)
    # Another shuffle: in the order of the first, large categories would crowd the front.
    codes = [code for group in by_group.values() for code in group]
    codes.sort(key=lambda code: _shuffle_key(f"row {code}"))
    first: dict[str, Diagnosis] = {}
    for code in codes:
        chapter = chr(ord("A") + int(icd.get_ancestors(code)[-1]) - 1)
        item = Diagnosis(code, icd.get_description(code), chapter, code[:3])
        first.setdefault(item.text, item)
    return tuple(first.values())


@cache
def _codes() -> tuple[str, ...]:
    """List categories and subcategories, without encounter suffixes ("initial encounter")."""
    icd = _icd()
    return tuple(
        code
        for code in icd.get_all_codes(True)
        if icd.is_category_or_subcategory(code) and not icd.is_extended_subcategory(code)
    )


def _shuffle_key(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()


def _icd() -> ModuleType:
    try:
        return import_module("simple_icd_10_cm")
    except ImportError as error:
        raise ImportError(
            "The ICD-10 example needs simple-icd-10-cm: pip install 'distill-ray[examples]'"
        ) from error
