"""How a question and its answer become tokens: as running text, or as two turns of a chat.

Training, the audit and the evaluation share one format, so they see the same tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any, Literal, Protocol

from distill_ray.config.data import TaskConfig
from distill_ray.data.chat_marks import mark_chat
from distill_ray.data.chat_rendering import ChatRenderer
from distill_ray.data.control_tokens import ControlTokens, Encoded, Spelling
from distill_ray.data.conversation import Conversation, Turn
from distill_ray.data.tokenizer import encode, encode_batch, end_id, start_ids

QUESTION, ANSWER = "distill-ray asks", "distill-ray is answered"
"""Probe turns that reveal what a chat template writes around an answer."""

Side = Literal["left", "right", "middle"]
SIDES: dict[str, Side] = {
    "truncate_left": "left",
    "truncate_right": "right",
    "truncate_middle": "middle",
}
"""`on_long_row` → where a text is cut."""


@dataclass(frozen=True)
class Answer:
    """Tokens of an answer, which follow those of any prompt."""

    ids: list[int]
    end: int
    """Token that ends the answer, and is supervised with it."""
    trailing: list[int]
    """Tokens after the end."""

    @property
    def size(self) -> int:
        """Tokens that it adds to a prompt: its own, the end, and those after it."""
        return len(self.ids) + 1 + len(self.trailing)


class PromptFormat(Protocol):
    """What turns a task's texts into tokens. Control tokens that they spell are text."""

    def prompt(self, text: str) -> list[int]:
        """Token ids of a rendered prompt, up to where the answer begins."""

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of several prompts, in one call of the tokenizer."""

    def prompt_of(
        self, template: str, text: str, limit: int | None = None, side: Side = "right"
    ) -> list[int]:
        """Token ids of a prompt whose text is truncated where it is too long.

        Args:
            template: the prompt, with `{text}` in it.
            text: what is asked about.
            limit: the most tokens; without it, the prompt is whole.
            side: where the text loses tokens.

        Raises:
            ValueError: the prompt is too long even without a text.
        """

    def answer(self, text: str) -> Answer:
        """The answer that follows any prompt."""


def make_prompt_format(
    tokenizer: Any,
    *,
    chat: bool,
    system: str | None = None,
    args: Mapping[str, Any] | None = None,
) -> PromptFormat:
    """Make the prompt format of a task.

    Args:
        tokenizer: for all texts.
        chat: whether the tokenizer's chat template renders them.
        system: what the system says in a chat.
        args: arguments of the chat template.

    Raises:
        ValueError: `chat` is set, and the tokenizer's template can't be used.
    """
    return Chat(tokenizer, system, args) if chat else Plain(tokenizer)


def task_prompt_format(tokenizer: Any, task: TaskConfig) -> PromptFormat:
    """The prompt format that a task's config asks for.

    Raises:
        ValueError: see `make_prompt_format`.
    """
    return make_prompt_format(
        tokenizer, chat=task.chat, system=task.system, args=task.template_args
    )


class _Shortened(ABC):
    """What both formats do alike: one prompt, and one whose text is truncated."""

    @abstractmethod
    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of several prompts, in one call of the tokenizer."""

    @abstractmethod
    def _truncated(
        self, prompt: str, spans: Sequence[tuple[int, int]], limit: int, side: Side
    ) -> list[int] | None:
        """Token ids of a prompt without some that lie in the spans; None if that isn't enough."""

    def prompt(self, text: str) -> list[int]:
        """Token ids of a rendered prompt, up to where the answer begins."""
        return self.prompts([text])[0]

    def prompt_of(
        self, template: str, text: str, limit: int | None = None, side: Side = "right"
    ) -> list[int]:
        """Token ids of a prompt whose text is truncated where it is too long."""
        prompt, spans = _filled(template, text)
        ids = self.prompt(prompt)
        if limit is None or len(ids) <= limit:
            return ids
        shorter = self._truncated(prompt, spans, limit, side)
        if shorter is None:
            shorter = self.prompt(template.format(text=""))
            if len(shorter) > limit:
                what = f"the prompt without its text has {len(shorter)} tokens, more than {limit}"
                raise ValueError(what)
        return shorter


class Plain(_Shortened):
    """A text and its continuation, which the end of the text ends."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._start = start_ids(tokenizer)

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of several prompts, in one call of the tokenizer."""
        return [self._start + ids for ids in encode_batch(self._tokenizer, texts)]

    def _truncated(
        self, prompt: str, spans: Sequence[tuple[int, int]], limit: int, side: Side
    ) -> list[int] | None:
        encoded = ControlTokens(self._tokenizer, "").spelling([prompt]).encode(prompt)
        shorter = _without_some(encoded, spans, limit - len(self._start), side)
        return None if shorter is None else self._start + shorter

    def answer(self, text: str) -> Answer:
        """An answer, encoded apart from the prompt: a prompt's ids are always a prefix."""
        return Answer(encode(self._tokenizer, text), end_id(self._tokenizer), [])


class Chat(_Shortened):
    """The user's turn and the assistant's, as the tokenizer's chat template renders them.

    The tokens are the template's alone: the start token is there if the template writes it, and
    the answer ends with the special token with which the template ends the assistant's turn. What
    it writes before the answer's own words, such as an empty thought, belongs to the prompt.
    """

    def __init__(
        self, tokenizer: Any, system: str | None = None, args: Mapping[str, Any] | None = None
    ) -> None:
        self._renderer = ChatRenderer(tokenizer, args)
        self._system = system
        between, self._after = self._frame()
        # White space belongs to the answer: tokenizers join it to the word behind it.
        self.generation_prefix = between if between.strip() else ""
        """What the template writes before the answer, beyond the generation prompt."""
        self.answer(ANSWER)  # Raises here, and not at the first row.

    def prompt_text(self, text: str) -> str:
        """The prompt as text: the conversation up to where the answer begins."""
        return self._renderer.render(self._messages(text), add_generation_prompt=True) + (
            self.generation_prefix
        )

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of several conversations, in one call of the tokenizer."""
        spelling = self._spelling(*texts)
        named = [self._named(spelling, text) for text in texts]
        return [encoded.ids for encoded in spelling.encode_all(named)]

    def _truncated(
        self, prompt: str, spans: Sequence[tuple[int, int]], limit: int, side: Side
    ) -> list[int] | None:
        turns = [Turn("system", self._system)] if self._system is not None else []
        asks = Conversation((*turns, Turn("user", prompt)))
        chat = mark_chat(self._renderer, asks, add_generation_prompt=True)
        # White space around what the user says may be trimmed, and is none of the text then.
        words = prompt.strip()
        moved = [
            (place.start + max(0, start - prompt.find(words)), min(place.stop, place.start + stop))
            for place in chat.places_of(len(turns), "content")
            if chat.text[place.start : place.stop] == words
            for start, stop in spans
        ]
        named = chat.text + chat.spelling.name(self.generation_prefix)
        return _without_some(chat.spelling.encode(named), moved, limit, side)

    def answer(self, text: str) -> Answer:
        """Render the assistant's turn; a turn has no white space around the answer."""
        spelling = self._spelling(text)
        prompt_ids = spelling.encode(self._named(spelling, QUESTION)).ids
        conversation = self._named(spelling, QUESTION, text.strip())
        encoded = spelling.encode(conversation)
        if encoded.ids[: len(prompt_ids)] != prompt_ids:
            raise ValueError(
                "the chat template joins the prompt and the answer to one token, so the prompt's "
                f"tokens don't begin the conversation's: {spelling.show(conversation)!r}"
            )
        closing = len(conversation) - len(spelling.name(self._after))
        end = next((place for place, _ in spelling.special_in(conversation, closing)), None)
        if end is None:
            raise ValueError(
                f"the chat template ends the assistant's turn with {self._after!r}, in which no "
                "special token says that the answer ends"
            )
        token = encoded.tokens_of(end, end + 1)[0]
        return Answer(
            encoded.ids[len(prompt_ids) : token], encoded.ids[token], encoded.ids[token + 1 :]
        )

    def _frame(self) -> tuple[str, str]:
        """Find what the template writes before and behind the assistant's words."""
        prompt = self._renderer.render(self._messages(QUESTION), add_generation_prompt=True)
        conversation = self._renderer.render(self._messages(QUESTION, ANSWER))
        if not conversation.startswith(prompt):
            raise ValueError(
                "the chat template renders a conversation that doesn't begin with its prompt: the "
                f"prompt ends {_ending(prompt)}, the conversation {_ending(conversation)}"
            )
        between, answer, after = conversation[len(prompt) :].partition(ANSWER)
        turns = {"system": (self._system or "").strip(), "user": QUESTION}
        missing = [role for role, text in turns.items() if text not in prompt]
        if missing or not answer:
            role = missing[0] if missing else "assistant"
            raise ValueError(f"the chat template leaves out what the {role} says")
        if self._renderer.control.pattern.search(self._system or "") is None:
            self._renderer.require_same_tokens(conversation)
        return between, after

    def _spelling(self, *texts: str) -> Spelling:
        return self._renderer.control.spelling([*texts, self._system or ""])

    def _named(self, spelling: Spelling, question: str, answer: str | None = None) -> str:
        """The rendered conversation, or its prompt, with control tokens by their names."""
        hidden = [
            {**message, "content": spelling.hide(message["content"])}
            for message in self._messages(question, answer)
        ]
        if answer is not None:
            return spelling.name(self._renderer.render(hidden))
        rendered = self._renderer.render(hidden, add_generation_prompt=True)
        return spelling.name(rendered + self.generation_prefix)

    def _messages(self, question: str, answer: str | None = None) -> list[dict[str, str]]:
        texts = {"system": self._system, "user": question, "assistant": answer}
        return [{"role": role, "content": text} for role, text in texts.items() if text is not None]


def _filled(template: str, text: str) -> tuple[str, list[tuple[int, int]]]:
    """A prompt, and where its text is: characters from the first to before the last."""
    pieces, spans, length = [], [], 0
    for literal, field, _, _ in Formatter().parse(template):
        pieces += [literal, text if field is not None else ""]
        if field is not None:
            spans.append((length + len(literal), length + len(literal) + len(text)))
        length += len(literal) + len(pieces[-1])
    prompt = "".join(pieces)
    if prompt != template.format(text=text):
        raise ValueError(f"a prompt has {{text}} without a format, and {template!r} has one")
    return prompt, spans


def _without_some(
    encoded: Encoded, spans: Sequence[tuple[int, int]], limit: int, side: Side
) -> list[int] | None:
    """Token ids without some of those that lie within the spans; None where that isn't enough."""
    chars = [encoded.chars_of(token) for token in range(len(encoded.ids))]
    own = [
        token
        for token, (first, behind) in enumerate(chars)
        if any(start <= first < behind <= stop for start, stop in spans)
    ]
    excess = len(encoded.ids) - limit
    if excess > len(own):
        return None
    first = {"left": 0, "right": len(own) - excess, "middle": (len(own) - excess) // 2}[side]
    behind = first + excess
    # Tokens of one character go together.
    while first > 0 and chars[own[first - 1]] == chars[own[first]]:
        first -= 1
    while behind < len(own) and chars[own[behind - 1]] == chars[own[behind]]:
        behind += 1
    removed = set(own[first:behind])
    return [number for token, number in enumerate(encoded.ids) if token not in removed]


def _ending(text: str) -> str:
    return repr(text[-60:])
