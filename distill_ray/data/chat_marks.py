"""Where a chat template writes what: a conversation rendered with marks around its texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from distill_ray.data.chat_rendering import ChatRenderer
from distill_ray.data.control_tokens import REGIONS, ChatTemplateError, Spelling
from distill_ray.data.conversation import Conversation, Turn

Kind = Literal["content", "reasoning", "call", "tools"]
SPACES = "\x1c\x1d\x1e\x1f"
"""White space that no one writes: it marks where white space begins, and is trimmed with it."""


class ChangedTextError(ChatTemplateError):
    """The template looks into what is said, so marks change what it writes."""


@dataclass(frozen=True)
class Place:
    """Characters of one text, or a part of one, from `start` to before `stop`."""

    turn: int
    kind: Kind
    start: int
    stop: int


@dataclass(frozen=True)
class MarkedChat:
    """A rendered conversation, and the places of its texts."""

    text: str
    """With control tokens by their names."""
    spelling: Spelling
    places: list[Place]
    """In the order of the text."""

    def places_of(self, turn: int, *kinds: Kind) -> list[Place]:
        """Places of a turn's texts."""
        return [p for p in self.places if p.turn == turn and (p.kind in kinds or not kinds)]

    def before(self, place: int) -> Place | None:
        """The last text that ends before a character, whoever says it."""
        return next((p for p in reversed(self.places) if p.stop <= place), None)

    def next_start(self, place: int) -> int:
        """Where the next text begins, or the end."""
        return next((p.start for p in self.places if p.start >= place), len(self.text))

    @property
    def tail(self) -> str:
        """What the template writes behind the last text."""
        return self.text[self.places[-1].stop if self.places else 0 :]


def texts_of(conversation: Conversation) -> Iterator[str]:
    """All strings of a conversation that a template can see."""
    for turn in conversation.turns:
        yield turn.content
        for text in (turn.reasoning, turn.tool_calls, turn.name, turn.tool_call_id):
            if text:
                yield text
    if conversation.tools:
        yield conversation.tools


def hidden(renderer: ChatRenderer, spelling: Spelling, conversation: Conversation) -> Conversation:
    """The conversation with stand-ins for the control tokens that its texts spell."""
    if not any(renderer.control.pattern.search(text) for text in texts_of(conversation)):
        return conversation
    hide = spelling.hide

    def hide_in(turn: Turn) -> Turn:
        return replace(
            turn,
            content=hide(turn.content),
            reasoning=turn.reasoning and hide(turn.reasoning),
            tool_calls=turn.tool_calls and hide(turn.tool_calls),
            name=turn.name and hide(turn.name),
            tool_call_id=turn.tool_call_id and hide(turn.tool_call_id),
        )

    tools = conversation.tools and hide(conversation.tools)
    return Conversation(tuple(map(hide_in, conversation.turns)), tools)


def mark_chat(
    renderer: ChatRenderer,
    conversation: Conversation,
    *,
    spelling: Spelling | None = None,
    add_generation_prompt: bool = False,
) -> MarkedChat:
    """Render a conversation and find where its texts are.

    Args:
        renderer: the chat template.
        conversation: what is said.
        spelling: names of control tokens; by default chosen by the conversation's texts.
        add_generation_prompt: whether it ends where the assistant is to speak.

    Raises:
        ChatTemplateError: the template refuses the conversation, or leaves out a text.
        ChangedTextError: it writes something else once the texts are marked.
    """
    spelling = spelling or renderer.control.spelling(texts_of(conversation))
    shown = hidden(renderer, spelling, conversation)
    plain = renderer.render(
        shown.to_messages(), tools=shown.to_tools(), add_generation_prompt=add_generation_prompt
    )
    joined = "".join(texts_of(shown))
    space = next((mark for mark in SPACES if mark not in joined), "")
    for white in dict.fromkeys((space, "")):
        marks = _Marks(spelling, white)
        messages, tools = marks.messages(shown), marks.tools(shown)
        marked = renderer.render(messages, tools=tools, add_generation_prompt=add_generation_prompt)
        if marks.remove(marked) == plain:
            chat = marks.read(spelling.name(marked))
            _require_all(conversation, marks, chat)
            return chat
    raise ChangedTextError("the chat template looks into what is said")


class _Marks:
    """Marks around the texts of one conversation."""

    def __init__(self, spelling: Spelling, white: str) -> None:
        self._spelling = spelling
        self._white = white
        self.regions: list[tuple[int, Kind]] = []
        self._pattern = re.compile(
            spelling.region_pattern.pattern + (f"|{re.escape(white)}" if white else "")
        )

    def messages(self, conversation: Conversation) -> list[dict[str, Any]]:
        """The conversation's messages with marks."""
        messages = conversation.to_messages()
        for number, message in enumerate(messages):
            says = message["role"] == "assistant"
            message["content"] = self._mark(number, "content", message["content"], says)
            if "reasoning_content" in message:
                thought = message["reasoning_content"]
                message["reasoning_content"] = self._mark(number, "reasoning", thought)
            for call in message.get("tool_calls", []):
                function = call["function"]
                function["name"] = self._mark(number, "call", function["name"])
                mark = partial(self._mark, number, "call")
                function["arguments"] = _map_values(function["arguments"], mark)
        return messages

    def tools(self, conversation: Conversation) -> list[dict[str, Any]] | None:
        """The tools with marks around their names."""
        tools = conversation.to_tools()
        for tool in tools or []:
            tool["function"]["name"] = self._mark(-1, "tools", tool["function"]["name"])
        return tools

    def remove(self, marked: str) -> str:
        """A rendering without marks."""
        return self._pattern.sub("", marked)

    def read(self, marked: str) -> MarkedChat:
        """The rendering without marks, and where they were."""
        pieces: list[str] = []
        places: list[Place] = []
        called: set[int] = set()
        length, position = 0, 0
        opened: dict[int, int] = {}
        white: int | None = None
        for match in self._pattern.finditer(marked):
            pieces.append(marked[position : match.start()])
            length, position = length + match.start() - position, match.end()
            if match[1] is None:
                white = length
                continue
            number, closes = divmod(ord(match[1]) - REGIONS[0], 2)
            turn, kind = self.regions[number]
            if not closes:
                opened[number] = white if white is not None and kind == "content" else length
                white = None
            elif number in opened:
                # The header of a tool's answer may repeat the call's name.
                if number not in called:
                    places.append(Place(turn, kind, opened[number], length))
                called |= {number} if kind == "call" else set()
                del opened[number]
            else:
                raise ChangedTextError("the chat template takes texts apart")
        pieces.append(marked[position:])
        places.sort(key=lambda place: place.start)
        return MarkedChat("".join(pieces), self._spelling, places)

    def _mark(self, turn: int, kind: Kind, text: str, mark_space: bool = False) -> str:
        core = text.strip()
        if not core:
            return text
        number = 2 * len(self.regions)
        if number + 1 >= len(REGIONS):
            raise ChatTemplateError(f"the conversation has more than {len(REGIONS) // 2} texts")
        self.regions.append((turn, kind))
        begin, end = (self._spelling.mark + chr(REGIONS[number + i]) for i in (0, 1))
        lead, trail = text[: text.index(core)], text[text.index(core) + len(core) :]
        if lead and mark_space and self._white:
            # Where the template keeps the white space, it keeps the mark.
            lead = self._white + lead
        return f"{lead}{begin}{core}{end}{trail}"


def _map_values(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with its strings changed, but for the keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_values(item, change) for item in value]
    if isinstance(value, dict):
        return {key: _map_values(item, change) for key, item in value.items()}
    return value


def _require_all(conversation: Conversation, marks: _Marks, chat: MarkedChat) -> None:
    """Refuse a template that leaves out a text, or that says what the assistant says twice.

    Thoughts may be missing: templates leave out those of earlier turns.
    """
    for turn, kind in dict.fromkeys(marks.regions):
        expected = sum(region == (turn, kind) for region in marks.regions)
        places = len(chat.places_of(turn, kind))
        role = conversation.turns[turn].role
        if kind == "tools" and places < expected:
            raise ChatTemplateError("the chat template leaves out the tools")
        if kind == "call" and places < expected:
            raise ChatTemplateError(f"the chat template leaves out the tool calls of turn {turn}")
        if kind == "content" and not places:
            raise ChatTemplateError(
                f"the chat template leaves out what the {role} says in turn {turn}"
            )
        if kind != "tools" and places > expected and role == "assistant":
            raise ChatTemplateError(
                f"the chat template writes twice what the assistant says in turn {turn}"
            )
