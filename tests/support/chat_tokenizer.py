"""Small tokenizers with chat templates, and samples worded by one."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

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


TEMPLATES = Path(__file__).parents[1] / "templates"
FAMILIES = {
    "chatml": ("<|im_end|>", []),
    "llama3": ("<|eot_id|>", ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
    "gemma": ("<end_of_turn>", ["<start_of_turn>", "<end_of_turn>"]),
    "qwen3": ("<|im_end|>", []),
    "mistral": (
        "<|end|>",
        [
            f"[{slash}{name}]"
            for name in ("INST", "TOOL_CALLS", "TOOL_RESULTS", "AVAILABLE_TOOLS")
            for slash in ("", "/")
        ],
    ),
    "generation": ("<|im_end|>", []),
}
"""Families of chat templates: the token that ends a turn, and the special tokens of each."""
TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
"""Tokens of Qwen 3 that aren't special."""


def template(family: str) -> str:
    """A family's chat template."""
    return (TEMPLATES / f"{family}.jinja").read_text()


def of_family(family: str, kind: str = "bytes") -> Any:
    """A tokenizer with a family's template and control tokens.

    Args:
        family: of the template.
        kind: `bytes` (byte-level BPE, as GPT-2's), or a key of `METASPACE`.
    """
    special = FAMILIES[family][1]
    if kind == "bytes":
        made = tokenizer(template(family), *special)
    else:
        made = metaspace(kind)
        marks = ["<|im_start|>", "<|im_end|>", *special]
        made.add_special_tokens({"additional_special_tokens": marks})
        made.chat_template = template(family)
    if family == "qwen3":
        made.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    return made


METASPACE = {
    "first": pre_tokenizers.Metaspace(prepend_scheme="first"),
    "always": pre_tokenizers.Metaspace(prepend_scheme="always"),
    "legacy": normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
    "unigram": pre_tokenizers.Metaspace(prepend_scheme="first"),
}
"""Ways in which tokenizers of SentencePiece's kind spell white space; the last is a Unigram."""


@cache
def _metaspace_model(kind: str) -> str:
    """The tokenizer of a kind, as JSON."""
    words = ["Name the organ: pain, left heart. user assistant system model"] * 20
    names = ["<unk>", "<|end|>", *(f"<0x{byte:02X}>" for byte in range(256))]
    learner = Tokenizer(models.Unigram() if kind == "unigram" else models.BPE())
    learner.pre_tokenizer = METASPACE["first"]
    if kind == "unigram":
        trainer = trainers.UnigramTrainer(
            vocab_size=60, special_tokens=names[:2], unk_token="<unk>", show_progress=False
        )
    else:
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=names, show_progress=False)
    learner.train_from_iterator(words, trainer)
    state = json.loads(learner.to_str())["model"]
    if kind == "unigram":
        vocab = [*map(tuple, state["vocab"]), *((name, -20.0) for name in names[2:])]
        model = models.Unigram(vocab, unk_id=0, byte_fallback=True)
    else:
        merges = [tuple(merge) for merge in state["merges"]]
        model = models.BPE(state["vocab"], merges, unk_token="<unk>", byte_fallback=True)
    made = Tokenizer(model)
    if kind == "legacy":
        made.normalizer = METASPACE[kind]
    else:
        made.pre_tokenizer = METASPACE[kind]
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return made.to_str()


def metaspace(kind: str) -> Any:
    """A tokenizer that spells white space as `▁` and unknown characters as bytes."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_metaspace_model(kind)),
        eos_token="<|end|>",
        bos_token="<|end|>",
        unk_token="<unk>",
    )
