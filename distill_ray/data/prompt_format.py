"""How a question and its answer become tokens: as running text, or as two turns of a chat.

Training, the audit and the evaluation share one format, so they see the same tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from distill_ray.data.tokenizer import encode, end_id, start_ids

QUESTION, ANSWER = "distill-ray asks", "distill-ray is answered"
"""Probe turns that reveal what a chat template writes around an answer."""

TODAY = {"%d": "26", "%b": "Jul", "%B": "July", "%m": "07", "%Y": "2024"}
"""Date for templates that print one: tokens must not depend on the day."""
FIXED_DAY = "".join(
    [
        "{% macro strftime_now(form) %}{{ form",
        *(f" | replace({sign!r}, {value!r})" for sign, value in TODAY.items()),
        " }}{% endmacro %}",
    ]
)


@dataclass(frozen=True)
class Answer:
    """Tokens of an answer, which follow those of any prompt."""

    ids: list[int]
    end: int
    """Token that ends the answer, and is supervised with it."""
    trailing: list[int]
    """Tokens after the end."""


class PromptFormat(Protocol):
    """What turns a task's texts into tokens."""

    def prompt(self, text: str) -> list[int]:
        """Token ids of a rendered prompt, up to where the answer begins."""

    def answer(self, text: str) -> Answer:
        """The answer that follows any prompt."""


def make_prompt_format(tokenizer: Any, *, chat: bool, system: str | None = None) -> PromptFormat:
    """Make the prompt format of a task.

    Raises:
        ValueError: `chat` is set, and the tokenizer's template can't be used.
    """
    return Chat(tokenizer, system) if chat else Plain(tokenizer)


class Plain:
    """A text and its continuation, which the end of the text ends."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._start = start_ids(tokenizer)

    def prompt(self, text: str) -> list[int]:
        """Token ids of a prompt, with the start token where the tokenizer puts one."""
        return self._start + encode(self._tokenizer, text)

    def answer(self, text: str) -> Answer:
        """An answer, encoded apart from the prompt: a prompt's ids are always a prefix."""
        return Answer(encode(self._tokenizer, text), end_id(self._tokenizer), [])


class Chat:
    """The user's turn and the assistant's, as the tokenizer's chat template renders them.

    The tokens are the template's alone: the start token is there if the template writes it, and
    the answer ends with the special token with which the template ends the assistant's turn. What
    it writes before the answer's own words, such as an empty thought, belongs to the prompt.
    """

    def __init__(self, tokenizer: Any, system: str | None = None) -> None:
        if tokenizer.chat_template is None:
            raise ValueError("the tokenizer has no chat template")
        template = tokenizer.get_chat_template()
        self._template = FIXED_DAY + template if "strftime_now" in template else template
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.items()
        self._special = {*tokenizer.all_special_ids, *(i for i, token in added if token.special)}
        self._system = system
        between, self._after = self._frame()
        # White space belongs to the answer: tokenizers join it to the word behind it.
        self.generation_prefix = between if between.strip() else ""
        """What the template writes before the answer, beyond the generation prompt."""
        self.answer(ANSWER)  # Raises here, and not at the first row.

    def prompt_text(self, text: str) -> str:
        """The prompt as text: the conversation up to where the answer begins."""
        return self._render(text) + self.generation_prefix

    def prompt(self, text: str) -> list[int]:
        """Token ids of the conversation up to where the answer begins."""
        return encode(self._tokenizer, self.prompt_text(text))

    def answer(self, text: str) -> Answer:
        """Render the assistant's turn; a turn has no white space around the answer."""
        prompt_ids, conversation = self.prompt(QUESTION), self._render(QUESTION, text.strip())
        encoded = self._tokenizer(
            conversation, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ids, starts = list(encoded["input_ids"]), [start for start, _ in encoded["offset_mapping"]]
        if ids[: len(prompt_ids)] != prompt_ids:
            raise ValueError(
                "the chat template joins the prompt and the answer to one token, so the prompt's "
                f"tokens don't begin the conversation's: {conversation!r}"
            )
        closing = len(conversation) - len(self._after)
        for place in range(len(prompt_ids), len(ids)):
            if starts[place] >= closing and ids[place] in self._special:
                return Answer(ids[len(prompt_ids) : place], ids[place], ids[place + 1 :])
        raise ValueError(
            f"the chat template ends the assistant's turn with {self._after!r}, in which no "
            "special token says that the answer ends"
        )

    def _frame(self) -> tuple[str, str]:
        """Find what the template writes before and behind the assistant's words."""
        prompt, conversation = self._render(QUESTION), self._render(QUESTION, ANSWER)
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
        return between, after

    def _render(self, question: str, answer: str | None = None) -> str:
        from jinja2 import TemplateError

        texts = {"system": self._system, "user": question, "assistant": answer}
        turns = [
            {"role": role, "content": text} for role, text in texts.items() if text is not None
        ]
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    turns,
                    chat_template=self._template,
                    tokenize=False,
                    add_generation_prompt=answer is None,
                )
            )
        except TemplateError as error:
            raise ValueError(f"the chat template refuses the conversation: {error}") from error


def _ending(text: str) -> str:
    return repr(text[-60:])
