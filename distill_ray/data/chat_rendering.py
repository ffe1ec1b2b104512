"""Renderings of a tokenizer's chat template, whose arguments are fixed and known to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from distill_ray.config.errors import did_you_mean
from distill_ray.data.control_tokens import ChatTemplateError, ControlTokens

TODAY = {"%d": "26", "%b": "Jul", "%B": "July", "%m": "07", "%Y": "2024"}
"""Date for templates that print one: tokens must not depend on the day."""
FIXED_DAY = "".join(
    [
        "{% macro strftime_now(form) %}{{ form",
        *(f" | replace({sign!r}, {value!r})" for sign, value in TODAY.items()),
        " }}{% endmacro %}",
    ]
)
NOT_ARGUMENTS = {
    "messages", "tools", "documents", "add_generation_prompt", "continue_final_message",
    "raise_exception", "strftime_now", "range", "dict", "lipsum", "cycler", "joiner", "namespace",
}  # fmt: skip
"""Variables of templates that are no user's to set."""


class ChatRenderer:
    """A tokenizer's chat template with arguments, and the control tokens that it writes.

    Args:
        tokenizer: a fast one, with a chat template.
        args: arguments of the template, such as `enable_thinking`.

    Raises:
        ValueError: there is no template, or it doesn't use one of the arguments.
    """

    def __init__(self, tokenizer: Any, args: Mapping[str, Any] | None = None) -> None:
        if tokenizer.chat_template is None:
            raise ValueError("the tokenizer has no chat template")
        self._tokenizer = tokenizer
        self._args = dict(args or {})
        self._templates = {
            with_tools: _with_fixed_day(
                tokenizer.get_chat_template(tools=[{}] if with_tools else None)
            )
            for with_tools in (False, True)
        }
        literals, variables = _look_into(set(self._templates.values()))
        known = variables - NOT_ARGUMENTS - set(tokenizer.special_tokens_map)
        for name in self._args:
            if name not in known:
                fix = did_you_mean(name, known)
                raise ValueError(f"the chat template uses no argument {name!r}. {fix}".rstrip())
        self.control = ControlTokens(tokenizer, literals)
        self._arguments_as_text = False

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        """The conversation as the template writes it.

        Raises:
            ChatTemplateError: the template refuses it; with the template's words.
        """
        from jinja2 import TemplateError

        def rendered(shown: Sequence[Mapping[str, Any]]) -> str:
            return str(
                self._tokenizer.apply_chat_template(
                    list(shown),
                    tools=tools,
                    chat_template=self._templates[tools is not None],
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    **self._args,
                )
            )

        as_text = _with_text_arguments(messages)
        try:
            if as_text is None:
                return rendered(messages)
            if not self._arguments_as_text:
                try:
                    return rendered(messages)
                except TypeError:
                    # Templates such as DeepSeek's expect the arguments of calls as JSON.
                    text = rendered(as_text)
                    self._arguments_as_text = True
                    return text
            return rendered(as_text)
        except (TemplateError, TypeError, KeyError, IndexError, AttributeError) as error:
            # Templates index and join what a conversation may not have.
            raise ChatTemplateError(
                f"the chat template refuses the conversation: {error}"
            ) from error

    def require_same_tokens(self, rendered: str) -> None:
        """Refuse a tokenizer that encodes a rendering otherwise once control tokens have names.

        Args:
            rendered: a conversation in which no text spells a control token.
        """
        spelling = self.control.spelling([rendered])
        ids = self._tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"]
        if spelling.encode(spelling.name(rendered)).ids != list(ids):
            raise ValueError(
                f"the tokenizer's control tokens depend on how they are spelled: {rendered!r}"
            )


def _with_text_arguments(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    """The messages with their calls' arguments as JSON; None where there are no calls."""
    if not any("tool_calls" in message for message in messages):
        return None
    copies = [dict(message) for message in messages]
    for message in copies:
        if "tool_calls" in message:
            message["tool_calls"] = [
                {
                    **call,
                    "function": {
                        **call["function"],
                        "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
                    },
                }
                for call in message["tool_calls"]
            ]
    return copies


def _with_fixed_day(template: str) -> str:
    return FIXED_DAY + template if "strftime_now" in template else template


def _look_into(templates: set[str]) -> tuple[str, set[str]]:
    """What templates write literally, and the variables that they use.

    A template that isn't one tells nothing: rendering it says why.
    """
    from jinja2 import Environment, TemplateSyntaxError, meta, nodes
    from jinja2.ext import Extension, loopcontrols

    class Generation(Extension):
        """`{% generation %}`, in which templates may put what the assistant says."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = Environment(extensions=[Generation, loopcontrols])
    literals: list[str] = []
    variables: set[str] = set()
    for template in templates:
        try:
            tree = environment.parse(template)
        except TemplateSyntaxError:
            continue
        variables |= meta.find_undeclared_variables(tree)
        literals += [node.data for node in tree.find_all(nodes.TemplateData)]
        literals += [n.value for n in tree.find_all(nodes.Const) if isinstance(n.value, str)]
    return "\0".join(literals), variables
