"""Conversations as tokens, with masks of what the assistant says.

Masks come from recorded places. Each text of a conversation is rendered between marks, and the
rendering without its marks must be the plain one. So no text is searched for. A template that looks
into what is said is noticed: then renderings of the turns before tell the places, or it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from distill_ray.config.data import ConversationConfig
from distill_ray.data.chat_marks import ChangedTextError, MarkedChat, mark_chat
from distill_ray.data.chat_prefixes import common_length, prefix_chat
from distill_ray.data.chat_rendering import ChatRenderer
from distill_ray.data.control_tokens import ChatTemplateError, Encoded, Spelling
from distill_ray.data.conversation import Conversation, Turn

Supervise = Literal["all", "last", "marked", "each"]
Reasoning = Literal["supervise", "mask", "strip"]
ASKS, SAYS, THINKS = "distill-ray asks", "distill-ray is answered", "distill-ray thinks"
"""Probe turns that reveal what a template writes around an answer."""


@dataclass(frozen=True)
class Rendered:
    """Tokens of a conversation. T tokens."""

    ids: list[int]
    label_mask: list[bool]
    """[T] whether the prediction of the next token is supervised."""
    reasoning_tokens: int
    """Tokens of the assistant's thoughts, supervised or not."""
    supervised_tokens: int


@dataclass(frozen=True)
class _Drawn:
    """A sample before it is encoded."""

    text: str
    spelling: Spelling
    supervised: list[tuple[int, int]]
    """Characters whose tokens are supervised, from the first to before the last."""
    reasoning: list[tuple[int, int]]


class ChatTemplate:
    """A tokenizer's chat template, which turns conversations into samples.

    Supervised are the assistant's own words, its tool calls and the token that ends its turn; not
    what the template writes before them, such as a header or an empty thought. A turn with
    `train=False` never is.

    Args:
        tokenizer: a fast one, with a chat template.
        args: arguments of the template, such as `enable_thinking`; the same for all conversations.
        supervise: which of the assistant's turns: `all`, the `last`, those `marked` by `train`,
            or `each` as a sample of its own, which ends with it.
        reasoning: whether thoughts are supervised, masked, or left out of the conversation.

    Raises:
        ValueError: the tokenizer has no chat template, the template doesn't use one of the
            arguments, or it doesn't show where the assistant's turn ends.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        args: Mapping[str, Any] | None = None,
        supervise: Supervise = "all",
        reasoning: Reasoning = "supervise",
    ) -> None:
        self._renderer = ChatRenderer(tokenizer, args)
        self._supervise = supervise
        self._reasoning = reasoning
        self._starts: dict[str, int] = {}
        self._ends: dict[str, int] = {}
        asks, says = Turn("user", ASKS), Turn("assistant", SAYS)
        self._renderer.require_same_tokens(
            self._renderer.render(Conversation((asks, says)).to_messages())
        )
        chat = mark_chat(self._renderer, Conversation((asks, says)))
        question = chat.places_of(0, "content")[-1]
        answer = chat.places_of(1, "content")[-1]
        prompt = mark_chat(self._renderer, Conversation((asks,)), add_generation_prompt=True)
        between = chat.text[question.stop : answer.start]
        between = between.removeprefix(prompt.tail) if between.startswith(prompt.tail) else ""
        self._space, self._empty_thought = ("", between) if between.strip() else (between, "")
        """What the template writes before an answer, beyond the generation prompt."""
        ends = list(chat.spelling.special_in(chat.text, answer.stop))
        if not ends:
            raise ChatTemplateError(
                f"the chat template ends the assistant's turn with {chat.tail!r}, in which no "
                "special token says that the answer ends"
            )
        self._end = chat.spelling.show(ends[0][1])
        self._thought_end = self._probe_thought()

    def samples(self, conversation: Conversation) -> list[Rendered]:
        """Samples of a conversation: one, or one for each supervised turn with `each`.

        A conversation in which the assistant says nothing is a prompt: it ends with the generation
        prompt, and nothing is supervised.

        Raises:
            ChatTemplateError: the template refuses the conversation, leaves out or changes what
                is said, or nothing in it is to be learnt.
        """
        (result,) = self.samples_many([conversation])
        if isinstance(result, ChatTemplateError):
            raise result
        return result

    def samples_many(
        self, conversations: Iterable[Conversation]
    ) -> Iterator[list[Rendered] | ChatTemplateError]:
        """Samples of each conversation, or why it has none, in one call of the tokenizer."""
        drawn: list[list[_Drawn] | ChatTemplateError] = []
        texts: dict[Spelling, list[str]] = {}
        for conversation in conversations:
            try:
                samples = list(self._draw(conversation))
            except ChatTemplateError as error:
                drawn.append(error)
                continue
            drawn.append(samples)
            for sample in samples:
                texts.setdefault(sample.spelling, []).append(sample.text)
        encoded = {spelling: iter(spelling.encode_batch(texts[spelling])) for spelling in texts}
        for drawing in drawn:
            if isinstance(drawing, ChatTemplateError):
                yield drawing
                continue
            rendered = [_rendered(sample, next(encoded[sample.spelling])) for sample in drawing]
            errors = [sample for sample in rendered if isinstance(sample, ChatTemplateError)]
            yield errors[0] if errors else [r for r in rendered if isinstance(r, Rendered)]

    def _probe_thought(self) -> str | None:
        """What the template writes between a thought and its answer; None if it shows none."""
        asks, call = Turn("user", ASKS), '[{"name": "asks", "arguments": {}}]'
        for thinks in (
            Turn("assistant", SAYS, reasoning=THINKS),
            Turn("assistant", "", reasoning=THINKS, tool_calls=call),
        ):
            try:
                chat = mark_chat(self._renderer, Conversation((asks, thinks)))
            except ChatTemplateError:
                continue
            if thought := chat.places_of(1, "reasoning"):
                answer = chat.places_of(1, "content")
                return chat.text[thought[-1].stop : answer[0].start] if answer else ""
        return None

    def _draw(self, conversation: Conversation) -> Iterator[_Drawn]:
        """Render a conversation's samples."""
        turns = conversation.turns
        if self._reasoning == "strip":
            turns = tuple(replace(turn, reasoning=None) for turn in turns)
            conversation = replace(conversation, turns=turns)
        elif self._thought_end is None and any(turn.reasoning for turn in turns):
            raise ChatTemplateError(
                "the chat template shows no reasoning, and the conversation has some: set "
                "`reasoning: strip`"
            )
        answers = [number for number, turn in enumerate(turns) if turn.role == "assistant"]
        if not answers:
            yield self._sample(conversation, [])
            return
        learnt = answers[-1:] if self._supervise == "last" else answers
        if self._supervise == "marked":
            learnt = [number for number in learnt if turns[number].train]
        learnt = [number for number in learnt if turns[number].train is not False]
        if not learnt:
            raise ChatTemplateError("no turn of the assistant is to be learnt")
        if self._supervise == "each":
            for number in learnt:
                yield self._sample(replace(conversation, turns=turns[: number + 1]), [number])
        else:
            yield self._sample(conversation, learnt)

    def _sample(self, conversation: Conversation, learnt: Sequence[int]) -> _Drawn:
        try:
            chat = mark_chat(self._renderer, conversation, add_generation_prompt=not learnt)
            supervised = [
                (self._start(conversation, chat, number), self._stop(conversation, chat, number))
                for number in learnt
            ]
        except ChangedTextError:
            return self._unmarked_sample(conversation, learnt)
        thoughts = [(p.start, p.stop) for p in chat.places if p.kind == "reasoning"]
        return _Drawn(chat.text, chat.spelling, supervised, thoughts)

    def _unmarked_sample(self, conversation: Conversation, learnt: Sequence[int]) -> _Drawn:
        """A sample of a template that looks into what is said."""
        chat = prefix_chat(self._renderer, conversation, learnt)
        supervised = []
        for number, (start, stop) in zip(learnt, chat.turns, strict=True):
            length = self._behind_end(chat.text[start:stop], chat.spelling)
            if not length:
                raise ChatTemplateError(
                    f"no special token says that turn {number} ends, in "
                    f"{chat.spelling.show(chat.text[start:stop])!r}"
                )
            empty = len(self._empty_thought) * chat.text.startswith(self._empty_thought, start)
            supervised.append((start + empty, start + length))
        return _Drawn(chat.text, chat.spelling, supervised, [])

    def _start(self, conversation: Conversation, chat: MarkedChat, number: int) -> int:
        """Where the first character is that the assistant learns to write in a turn."""
        own, thought = (
            chat.places_of(number, "content", "call"),
            chat.places_of(number, "reasoning"),
        )
        if not own and not (thought and self._reasoning == "supervise"):
            raise ChatTemplateError(f"the assistant says nothing in turn {number}")
        if own and own[0].kind == "content" and (self._reasoning == "mask" or not thought):
            start = own[0].start
            return start - len(self._space) * chat.text.endswith(self._space, 0, start)
        if thought and self._reasoning == "mask":
            behind = chat.text[thought[-1].stop : own[0].start]
            for end in (self._thought_end or "", (self._thought_end or "").rstrip()):
                if behind.startswith(end):
                    return thought[-1].stop + len(end)
            raise ChatTemplateError(f"the chat template doesn't end the thought of turn {number}")
        # A thought or a call is first. The template writes a tag before it that the assistant
        # writes itself: all that follows the generation prompt.
        first = (thought or own)[0]
        before = chat.before(first.start)
        written = chat.text[before.stop if before else 0 : first.start]
        if written not in self._starts:
            self._starts[written] = self._prompt_length(conversation, chat, number, written)
        return first.start - len(written) + self._starts[written]

    def _prompt_length(
        self, conversation: Conversation, chat: MarkedChat, number: int, written: str
    ) -> int:
        """How much of what the template writes before a turn's first text isn't the turn's own.

        It is the generation prompt, and an empty thought behind it or instead of it.
        """
        before, turn = conversation.turns[:number], conversation.turns[number]
        prompt = mark_chat(
            self._renderer,
            replace(conversation, turns=before),
            spelling=chat.spelling,
            add_generation_prompt=True,
        )
        if written.startswith(prompt.tail):
            length = len(prompt.tail)
            thought = self._empty_thought
            has_empty = not chat.places_of(number, "reasoning") and written.startswith(
                thought, length
            )
            return length + len(thought) * has_empty
        if not turn.reasoning:
            # What the assistant would say before a call begins where its own part begins.
            says = replace(conversation, turns=(*before, replace(turn, content=SAYS)))
            with_words = mark_chat(self._renderer, says, spelling=chat.spelling)
            answer = with_words.places_of(number, "content")[0]
            previous = with_words.before(answer.start)
            header = with_words.text[previous.stop if previous else 0 : answer.start]
            if written.startswith(header):
                return len(header)
        raise ChatTemplateError(
            f"the chat template's generation prompt, {chat.spelling.show(prompt.tail)!r}, isn't "
            f"what it writes before turn {number}, {chat.spelling.show(written)!r}"
        )

    def _stop(self, conversation: Conversation, chat: MarkedChat, number: int) -> int:
        """Behind the token that ends a turn."""
        last = max(chat.places_of(number), key=lambda place: place.stop)
        behind = chat.text[last.stop : chat.next_start(last.stop)]
        if last.kind == "content":
            for place, name in chat.spelling.special_in(behind):
                return last.stop + place + len(name)
        else:
            if behind not in self._ends:
                self._ends[behind] = self._end_length(conversation, chat, number, behind)
            if self._ends[behind]:
                return last.stop + self._ends[behind]
        raise ChatTemplateError(
            f"the chat template ends turn {number} with {chat.spelling.show(behind)!r}, in which "
            "no special token says that it ends"
        )

    def _end_length(
        self, conversation: Conversation, chat: MarkedChat, number: int, behind: str
    ) -> int:
        """How far the end of a turn is behind its last text, which is a call: 0 if there is none.

        Special tokens may end a call as well, and another may end a turn with calls.
        """
        turn = mark_chat(
            self._renderer,
            replace(conversation, turns=conversation.turns[: number + 1]),
            spelling=chat.spelling,
        )
        own = behind[: common_length(turn.tail, behind, chat.spelling.mark)]
        if length := self._behind_end(own, chat.spelling):
            return length
        # The next turn's header may begin with the token that ends this one.
        following = chat.spelling.name_pattern.match(behind, len(own))
        return following.end() if following and not chat.spelling.name_pattern.search(own) else 0

    def _behind_end(self, own: str, spelling: Spelling) -> int:
        """How far it is to behind the token that ends a turn, in what is of the turn alone.

        It is the usual one, or else the last one: 0 if something follows it.
        """
        for place, name in spelling.special_in(own):
            if spelling.show(name) == self._end:
                return place + len(name)
        names = [*spelling.name_pattern.finditer(own)]
        return names[-1].end() if names and not own[names[-1].end() :].strip() else 0


def corpus_template(tokenizer: Any, options: ConversationConfig) -> ChatTemplate:
    """The chat template with what a corpus asks of it.

    Raises:
        ValueError: see `ChatTemplate`.
    """
    return ChatTemplate(
        tokenizer,
        args=options.template_args,
        supervise=options.supervise,
        reasoning=options.reasoning,
    )


def _rendered(drawn: _Drawn, encoded: Encoded | ChatTemplateError) -> Rendered | ChatTemplateError:
    if isinstance(encoded, ChatTemplateError):
        return encoded
    supervised = {t for span in drawn.supervised for t in encoded.tokens_of(*span)}
    mask = [token in supervised for token in range(1, len(encoded.ids))] + [False]
    thoughts = {t for span in drawn.reasoning for t in encoded.tokens_of(*span)}
    return Rendered(encoded.ids, mask, len(thoughts), sum(mask))
