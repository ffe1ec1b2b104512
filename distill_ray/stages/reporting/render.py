"""Pages and text from the templates beside this file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined, select_autoescape


def render(template: str, context: Mapping[str, object]) -> str:
    """A template filled in; what ends in `.html.j2` has its values escaped.

    Args:
        template: a file of this folder, or `package/file` of another part of ours.
        context: names → values; each name that the template reads must be there.
    """
    return _environment().get_template(template).render(context)


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=select_autoescape(("html.j2",), default_for_string=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        loader=FunctionLoader(_template),
    )
    environment.filters["cell"] = _cell
    environment.filters["json"] = json.dumps
    return environment


def _template(name: str) -> str:
    package, _, file = name.rpartition("/")
    return (files(f"distill_ray.{package or 'stages.reporting'}") / file).read_text(
        encoding="utf-8"
    )


def _cell(text: str) -> str:
    """Text that fits in a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")
