"""A small tokenizer with a chat template, and samples worded by one."""

from typing import Any

from distill_ray.data.packing import Sample, labelled_sample
from distill_ray.data.prompt_format import Chat
from distill_ray.data.tokenizer import train_tokenizer

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokenizer(template: str | None = CHATML, *special: str) -> Any:
    """Trained on a few words; its own end, `<|end|>`, ends no turn of ChatML."""
    words = "user\nsystem\nassistant\npain\nheart\nleft\nName the organ: pain, left heart."
    made = train_tokenizer([words] * 20, 400)
    marks = ["<|im_start|>", "<|im_end|>", *special]
    made.add_special_tokens({"additional_special_tokens": marks})
    made.chat_template = template
    return made


def sample(tokenizer: Any, question: str, answer: str, system: str | None = None) -> Sample:
    """A labelled sample of a chat, as the shard stage makes it."""
    chat = Chat(tokenizer, system)
    said = chat.answer(answer)
    return labelled_sample("r", chat.prompt(question), said.ids, said.end, said.trailing)
