"""Places of the assistant's turns in a template that looks into what is said.

Such a template writes something else once texts are marked. What it writes for the conversation up
to a turn, and for the turn too, tells where the turn is: if one begins the other, and both begin
the whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from distill_ray.data.chat_marks import hidden, texts_of
from distill_ray.data.chat_rendering import ChatRenderer
from distill_ray.data.control_tokens import ChatTemplateError, Spelling
from distill_ray.data.conversation import Conversation


@dataclass(frozen=True)
class PrefixChat:
    """A rendered conversation, with the assistant's turns as parts of it."""

    text: str
    """With control tokens by their names."""
    spelling: Spelling
    turns: list[tuple[int, int]]
    """What follows the generation prompt of each turn: from the first character to before the
    last that only this turn can have written."""


def prefix_chat(
    renderer: ChatRenderer, conversation: Conversation, numbers: Sequence[int]
) -> PrefixChat:
    """Render a conversation and find some of its turns.

    Args:
        renderer: the chat template.
        conversation: without thoughts, which can't be told from answers here.
        numbers: turns of the assistant. Without any, the generation prompt ends the text.

    Raises:
        ChatTemplateError: the places can't be proven.
    """
    spelling = renderer.control.spelling(texts_of(conversation))
    if any(turn.reasoning for turn in conversation.turns):
        raise _unproven("thoughts can't be told from answers. Set `reasoning: strip`")
    shown = hidden(renderer, spelling, conversation)

    def rendered(count: int, add_generation_prompt: bool) -> str:
        part = replace(shown, turns=shown.turns[:count])
        return spelling.name(
            renderer.render(
                part.to_messages(),
                tools=part.to_tools(),
                add_generation_prompt=add_generation_prompt,
            )
        )

    text = rendered(len(shown.turns), not numbers)
    _require_words(conversation, text)
    places = []
    for number in numbers:
        prompt, turn = rendered(number, True), rendered(number + 1, False)
        if not (turn.startswith(prompt) and text.startswith(prompt)):
            raise _unproven(f"it renders what is before turn {number} otherwise later")
        stop = common_length(turn, text, spelling.mark)
        if conversation.turns[number].content.strip() not in text[len(prompt) : stop]:
            raise _unproven(f"turn {number} isn't where its prompt ends")
        places.append((len(prompt), stop))
    return PrefixChat(text, spelling, places)


def common_length(a: str, b: str, mark: str) -> int:
    """Length of what two named texts begin with, in whole names, which begin with `mark`."""
    common = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    if common is None:
        return min(len(a), len(b))
    return common - (common > 0 and a[common - 1] == mark)


def _require_words(conversation: Conversation, text: str) -> None:
    """Refuse a rendering that doesn't hold all that is said, word for word."""
    for number, turn in enumerate(conversation.turns):
        names = [call["name"] for call in json.loads(turn.tool_calls or "[]")]
        if not all(words in text for words in (turn.content.strip(), *names)):
            raise _unproven(f"it changes what the {turn.role} says in turn {number}")
    tools = [tool["function"]["name"] for tool in conversation.to_tools() or []]
    if not all(name in text for name in tools):
        raise ChatTemplateError("the chat template leaves out the tools")


def _unproven(why: str) -> ChatTemplateError:
    return ChatTemplateError(f"the chat template looks into what is said, and {why}")
