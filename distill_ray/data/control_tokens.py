"""Control tokens that a template alone writes, however a text spells them.

A rendered chat is one string, in which `<|im_end|>` may be the template's or a word of the data. So
the template's control tokens get names that no text has, and a tokenizer that knows them by these
names encodes the chat. All else of it is the original's, so all other tokens are the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

NONCHARACTERS = [chr(plane << 16 | last) for plane in range(16, 0, -1) for last in (0xFFFE, 0xFFFF)]
"""Code points that Unicode reserves for use within a program."""
PRIVATE = range(0x100000, 0x10FFFE)
"""Private-use characters, each of which says what is named behind a noncharacter."""
NAMES, STAND_INS, REGIONS = PRIVATE[:16384], PRIVATE[16384:32768], PRIVATE[32768:]


class ChatTemplateError(ValueError):
    """A conversation that the chat template can't render, or whose masks can't be proven."""


class ControlTokens:
    """The control tokens of a tokenizer: its special tokens, and tags that its template writes.

    Args:
        tokenizer: a fast one.
        literals: what the chat template writes; added tokens such as `<think>` are control tokens
            if they are in it.

    Raises:
        ValueError: the tokenizer is one in Python, which doesn't tell where its tokens are.
    """

    def __init__(self, tokenizer: Any, literals: str) -> None:
        if not tokenizer.is_fast:
            raise ValueError(
                f"a chat needs a fast tokenizer, and {type(tokenizer).__name__} is one in Python"
            )
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        always = {i for i, token in added.items() if token.special} | set(tokenizer.all_special_ids)
        self.special = {added[i].content for i in always if i in added}
        """Control tokens that are special; one of them ends a turn."""
        self.contents = [
            token.content
            for token in added.values()
            if token.content.strip() == token.content != ""
            and (token.content in self.special or _is_tag(token.content, literals))
        ]
        self.pattern = re.compile(_longest_of(self.contents) or "(?!)")
        # Text may hold what the vocabulary doesn't: its token is no control token then.
        named = set(self.contents) - {tokenizer.unk_token}
        self.ids = {i for i, token in added.items() if token.content in named}
        self._spellings: dict[str, Spelling] = {}

    def spelling(self, texts: Iterable[str]) -> Spelling:
        """Names of the control tokens that none of these texts can spell."""
        joined = "".join(texts)
        mark = next((mark for mark in NONCHARACTERS if mark not in joined), None)
        if mark is None:
            raise ValueError("the texts hold all of Unicode's noncharacters")
        if mark not in self._spellings:
            self._spellings[mark] = Spelling(self, mark, self._tokenizer)
        return self._spellings[mark]


class Spelling:
    """Names for control tokens, stand-ins for their spelling in texts, and marks of regions.

    All three are two characters: a noncharacter, and a private one that says what is meant.
    """

    def __init__(self, control: ControlTokens, mark: str, tokenizer: Any) -> None:
        self.mark = mark
        self._pattern = control.pattern
        self._control_ids = control.ids
        self._names = {c: mark + chr(NAMES[i]) for i, c in enumerate(control.contents)}
        self._stand_ins = {c: mark + chr(STAND_INS[i]) for i, c in enumerate(control.contents)}
        self._spelled = {stand_in: c for c, stand_in in self._stand_ins.items()}
        self._contents = {name: c for c, name in self._names.items()}
        self.special = {self._names[c] for c in control.contents if c in control.special}
        """Names of the special tokens."""
        self.name_pattern = re.compile(f"{mark}[{chr(NAMES[0])}-{chr(NAMES[-1])}]")
        self.region_pattern = re.compile(f"{mark}([{chr(REGIONS[0])}-{chr(REGIONS[-1])}])")
        self._stand_in_pattern = re.compile(f"{mark}[{chr(STAND_INS[0])}-{chr(STAND_INS[-1])}]")
        self._backend, self._original_ids, self._named_ids = _renamed(tokenizer, self._names)

    def hide(self, text: str) -> str:
        """The text with stand-ins for control tokens that it spells: no template sees them."""
        return self._pattern.sub(lambda match: self._stand_ins[match[0]], text)

    def name(self, rendered: str) -> str:
        """A rendering of hidden texts: control tokens by their names, the texts as they were."""
        named = self._pattern.sub(lambda match: self._names[match[0]], rendered)
        return self._stand_in_pattern.sub(lambda match: self._spelled[match[0]], named)

    def show(self, named: str) -> str:
        """A named text as the template writes it."""
        return self.name_pattern.sub(lambda match: self._contents[match[0]], named)

    def encode(self, named: str) -> Encoded:
        """Tokens of a named text.

        Raises:
            ChatTemplateError: the tokenizer takes a control token of the template for text, or
                makes one of text.
        """
        return self.encode_all([named])[0]

    def encode_batch(self, named: Sequence[str]) -> list[Encoded | ChatTemplateError]:
        """Tokens of named texts, or what is wrong with them, in one call of the tokenizer."""
        encodings = self._backend.encode_batch(list(named), add_special_tokens=False)
        return [self._checked(*pair) for pair in zip(named, encodings, strict=True)]

    def encode_all(self, named: Sequence[str]) -> list[Encoded]:
        """Tokens of named texts, in one call of the tokenizer.

        Raises:
            ChatTemplateError: as `encode` does.
        """
        encoded = self.encode_batch(named)
        for error in encoded:
            if isinstance(error, ChatTemplateError):
                raise error
        return [one for one in encoded if isinstance(one, Encoded)]

    def special_in(
        self, named: str, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, str]]:
        """Places and names of the special tokens in a part of a named text."""
        behind = len(named) if stop is None else stop
        for match in self.name_pattern.finditer(named, start, behind):
            if match[0] in self.special:
                yield match.start(), match[0]

    def _checked(self, named: str, encoding: Any) -> Encoded | ChatTemplateError:
        ids = encoding.ids
        if self._original_ids:
            ids = [self._original_ids.get(i, i) for i in ids]
        written = [self._named_ids[name] for name in self.name_pattern.findall(named)]
        control = [i for i in ids if i in self._control_ids]
        if control == [i for i in written if i in self._control_ids]:
            return Encoded(ids, encoding)
        return ChatTemplateError(
            f"the tokenizer doesn't keep control tokens and text apart: {self.show(named)[:200]!r}"
        )


class Encoded:
    """Tokens of a text, with their places."""

    def __init__(self, ids: list[int], encoding: Any) -> None:
        self.ids = ids
        self._encoding = encoding

    def tokens_of(self, start: int, stop: int) -> range:
        """The tokens that hold any of the characters from `start` to before `stop`."""
        first = next((t for i in range(start, stop) if (t := self._token_at(i)) is not None), None)
        if first is None:
            return range(0)
        last = next(
            t for i in range(stop - 1, start - 1, -1) if (t := self._token_at(i)) is not None
        )
        # Several tokens may spell one character: the last of them counts.
        chars = self._encoding.token_to_chars(last)
        while last + 1 < len(self.ids) and self._encoding.token_to_chars(last + 1) == chars:
            last += 1
        return range(first, last + 1)

    def chars_of(self, token: int) -> tuple[int, int]:
        """The characters of a token, from the first to before the last."""
        first, behind = self._encoding.token_to_chars(token) or (0, 0)
        return first, behind

    def _token_at(self, place: int) -> int | None:
        token: int | None = self._encoding.char_to_token(place)
        return token


def _renamed(tokenizer: Any, names: dict[str, str]) -> tuple[Any, dict[int, int], dict[str, int]]:
    """The tokenizer with other names for its control tokens; both share one vocabulary in memory.

    Returns:
        The tokenizer, its ids → the original's where they differ, name → the original's id.
    """
    from tokenizers import AddedToken, Tokenizer, models

    backend = tokenizer.backend_tokenizer
    model = backend.model
    if isinstance(model, models.Unigram):
        # It takes any text of its vocabulary for a token, the spelling of a control token too.
        state = json.loads(model.__getstate__())
        model = models.Unigram(
            [(names.get(piece, piece), score) for piece, score in state["vocab"]],
            state["unk_id"],
            state.get("byte_fallback", False),
        )
    renamed = Tokenizer(model)
    if backend.normalizer is not None:
        renamed.normalizer = backend.normalizer
    if backend.pre_tokenizer is not None:
        renamed.pre_tokenizer = backend.pre_tokenizer
    added = sorted(tokenizer.added_tokens_decoder.items())
    contents = [names.get(token.content, token.content) for _, token in added]
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    # All in one call: each call compiles the patterns of all added tokens.
    renamed.add_tokens(
        [
            AddedToken(content, **{flag: getattr(token, flag) for flag in flags})
            for content, (_, token) in zip(contents, added, strict=True)
        ]
    )
    originals = {
        cast(int, renamed.token_to_id(content)): number
        for content, (number, _) in zip(contents, added, strict=True)
    }
    named = {names[token.content]: number for number, token in added if token.content in names}
    return renamed, {i: number for i, number in originals.items() if i != number}, named


def _is_tag(content: str, literals: str) -> bool:
    """Whether an added token is written by the template, and looks like no word."""
    return content in literals and not (content[0].isalnum() or content[-1].isalnum())


def _longest_of(words: Iterable[str]) -> str:
    """A regular expression of the longest word that matches; words share what they begin with.

    Vocabularies have thousands of control tokens that begin alike, such as `<unused0>`.
    """
    trie: dict[str, Any] = {}
    for word in words:
        node = trie
        for letter in word:
            node = node.setdefault(letter, {})
        node[""] = {}
    return _pattern_of(trie)


def _pattern_of(node: dict[str, Any]) -> str:
    branches = [re.escape(letter) + _pattern_of(node[letter]) for letter in node if letter]
    if len(branches) == 1 and "" not in node:
        return branches[0]
    return "(?:" + "|".join(branches) + ")" + ("?" if "" in node else "") if branches else ""
