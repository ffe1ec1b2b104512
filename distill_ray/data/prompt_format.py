"""How a question and its answer become tokens: as running text, or as two turns of a chat.

Training, the audit and the evaluation word a task by the same object, so they see the same tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from distill_ray.data.tokenizer import encode, end_id, start_ids

QUESTION, ANSWER = "distill-ray asks", "distill-ray is answered"
"""Turns from whose rendering a chat template's frame is read."""

TODAY = {"%d": "26", "%b": "Jul", "%B": "July", "%m": "07", "%Y": "2024"}
"""The day, to templates that tell it: equal input must give equal tokens on every day."""
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
    """Ends the answer, and is supervised with it."""
    rest: list[int]
    """What comes behind the end."""


class PromptFormat(Protocol):
    """What turns a task's texts into tokens."""

    def prompt(self, text: str) -> list[int]:
        """Token ids of a rendered prompt, up to where the answer begins."""

    def answer(self, text: str) -> Answer:
        """The answer that follows any prompt."""


def make_prompt_format(tokenizer: Any, *, chat: bool, system: str | None = None) -> PromptFormat:
    """The wording of a task.

    Raises:
        ValueError: a chat is asked for, and the tokenizer's template doesn't serve for it.
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
        self._special = _special_ids(tokenizer)
        self._system = system
        between, self._after = self._frame()
        # White space belongs to the answer: tokenizers join it to the word behind it.
        self.lead = between if between.strip() else ""
        """What the template writes before the answer, beyond the generation prompt."""
        self.answer(ANSWER)  # Raises here, and not at the first row.

    def written(self, text: str) -> str:
        """The prompt as text: the conversation up to where the answer begins."""
        return self._render(text) + self.lead

    def prompt(self, text: str) -> list[int]:
        """Token ids of the conversation up to where the answer begins."""
        return encode(self._tokenizer, self.written(text))

    def answer(self, text: str) -> Answer:
        """The assistant's turn; white space around the answer is left out, as a turn has none."""
        head, whole = self.prompt(QUESTION), self._render(QUESTION, text.strip())
        made = self._tokenizer(
            whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ids, starts = list(made["input_ids"]), [start for start, _ in made["offset_mapping"]]
        if ids[: len(head)] != head:
            raise ValueError(
                "the chat template joins the prompt and the answer to one token, so the prompt's "
                f"tokens don't begin the conversation's: {whole!r}"
            )
        closing = len(whole) - len(self._after)
        for place in range(len(head), len(ids)):
            if starts[place] >= closing and ids[place] in self._special:
                return Answer(ids[len(head) : place], ids[place], ids[place + 1 :])
        raise ValueError(
            f"the chat template ends the assistant's turn with {self._after!r}, in which no "
            "special token says that the answer ends"
        )

    def _frame(self) -> tuple[str, str]:
        """What the template writes before and behind the assistant's words."""
        asked, whole = self._render(QUESTION), self._render(QUESTION, ANSWER)
        if not whole.startswith(asked):
            raise ValueError(
                "the chat template renders a conversation that doesn't begin with its prompt: the "
                f"prompt ends {_ending(asked)}, the conversation {_ending(whole)}"
            )
        between, found, after = whole[len(asked) :].partition(ANSWER)
        said = {"system": (self._system or "").strip(), "user": QUESTION}
        left_out = [role for role, text in said.items() if text not in asked]
        if left_out or not found:
            role = left_out[0] if left_out else "assistant"
            raise ValueError(f"the chat template leaves out what the {role} says")
        return between, after

    def _render(self, question: str, answer: str | None = None) -> str:
        from jinja2 import TemplateError

        said = {"system": self._system, "user": question, "assistant": answer}
        turns = [{"role": role, "content": text} for role, text in said.items() if text is not None]
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


def _special_ids(tokenizer: Any) -> set[int]:
    added = tokenizer.added_tokens_decoder.items()
    return {*tokenizer.all_special_ids, *(i for i, token in added if token.special)}


def _ending(text: str) -> str:
    return repr(text[-60:])
