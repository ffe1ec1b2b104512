"""What `usage.py.j2` is filled with: code that asks the student, word for word as training did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill_ray.config.data import TaskConfig
from distill_ray.data.examples import option_ids
from distill_ray.data.prompt_format import Chat, task_prompt_format
from distill_ray.data.tokenizer import start_ids


def usage(
    task: TaskConfig, answers: Mapping[str, str], tokenizer: Any, folder: str
) -> dict[str, object]:
    """Names of the template → code, as text.

    Args:
        task: what is asked.
        answers: label → the text that answers it.
        tokenizer: the student's.
        folder: where the code finds the student.
    """
    prompt_format = task_prompt_format(tokenizer, task)
    options = option_ids(answers, prompt_format)
    code = {"folder": repr(folder), "prompt": repr(task.prompt), "chat": task.chat}
    if isinstance(prompt_format, Chat):
        prefix = prompt_format.generation_prefix
        system = {"system": repr(task.system)} if task.system is not None else {}
        by_role = {**system, "user": "prompt"}
        turns = [f'{{"role": "{role}", "content": {text}}}' for role, text in by_role.items()]
        # A chat's answers are given as tokens: what surrounds them decides how words are cut.
        return {
            **code,
            "turns": f"[{', '.join(turns)}]",
            "args": "".join(f", {name}={value!r}" for name, value in task.template_args.items()),
            "lead": f" + {prefix!r}" if prefix else "",
            "answers": repr(dict(zip(answers, options))),
        }
    start, end = start_ids(tokenizer), prompt_format.answer("").end
    ended = any(option[-1:] == [end] for option in options)
    return {
        **code,
        "answers": repr(dict(answers)),
        "start": f"{start} + " if start else "",
        "end": f" + [{end}]" if ended else "",
    }
