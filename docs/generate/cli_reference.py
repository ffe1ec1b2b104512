"""The reference of the command line, from the commands themselves."""

from __future__ import annotations

import inspect
from typing import Any

import typer

from distill_ray.cli.main import app

INTRO = """# Command line

Generated from the commands; `distill-ray COMMAND --help` prints the same.
[Exit codes](exit-codes.md) are the same for all commands.
"""


def page() -> str:
    """The whole reference as Markdown."""
    root = typer.main.get_command(app)
    return "\n".join([INTRO, *_commands(root, "distill-ray")])


def _commands(command: Any, name: str) -> list[str]:
    """A command's section, then those of its subcommands."""
    parts = [] if name == "distill-ray" else [_section(command, name)]
    for child, subcommand in getattr(command, "commands", {}).items():
        parts += _commands(subcommand, f"{name} {child}")
    return parts


def _section(command: Any, name: str) -> str:
    level = "##" if name.count(" ") == 1 else "###"
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    lines = [f"{level} {name}", "", inspect.cleandoc(command.help or ""), ""]
    if hasattr(command, "commands"):
        lines += [", ".join(f"[`{c}`](#{_anchor(name, c)})" for c in command.commands), ""]
        return "\n".join(lines)
    usage = [name, *(_metavar(a) for a in arguments), *(["[OPTIONS]"] if options else [])]
    lines += ["```text", " ".join(usage), "```", ""]
    if arguments or options:
        lines += ["| argument, option | |", "|---|---|"]
        lines += [f"| `{_metavar(a)}` | {_cell(a.help)} |" for a in arguments]
        lines += [f"| {_names(o)} | {_cell(o.help)}{_default(o)} |" for o in options]
        lines.append("")
    return "\n".join(lines)


def _anchor(name: str, child: str) -> str:
    return f"{name} {child}".replace(" ", "-")


def _metavar(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _names(option: Any) -> str:
    """An option's names, with what it takes."""
    names = ", ".join([*option.opts, *option.secondary_opts])
    if option.is_flag:
        return f"`{names}`"
    return f"`{names} {option.metavar or option.name.upper()}`"


def _default(option: Any) -> str:
    if option.required:
        return " Required."
    if option.is_flag or option.default in (None, (), []) or callable(option.default):
        return ""
    return f" Default: `{option.default}`."


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")
