"""Rows as they are shown: whose prediction is supervised by whom, and where samples begin."""

import io

import chat_tokenizer as chats
import pytest
from rich.console import Console
from tiny_run import config

from distill_ray.config import InputError, RunConfig
from distill_ray.console.tables import print_rows
from distill_ray.data.packing import Sample, labelled_sample, pack, prompt_sample, text_sample
from distill_ray.data.prompt_format import Chat
from distill_ray.data.tokenizer import encode
from distill_ray.stages.sharding.show import (
    RowShown,
    counts,
    plain,
    refuse_unknown,
    samples_of,
    token_texts,
)


@pytest.fixture(scope="module")
def tokenizer():
    return chats.tokenizer()


def shown(tokenizer, samples, length=40):
    (row,) = pack(samples, length, tokenizer.eos_token_id, "organ:train:00000")
    return RowShown("organ.labelled", "train", row, samples_of(row, tokenizer))


@pytest.fixture
def row(tokenizer):
    """A labelled row, a prompt and a text, then padding."""
    chat, end = Chat(tokenizer), tokenizer.eos_token_id
    said = chat.answer("heart")
    return shown(
        tokenizer,
        [
            labelled_sample("a", chat.prompt("pain"), said.ids, said.end, said.trailing),
            prompt_sample("b", encode(tokenizer, "left")),
            text_sample("c", encode(tokenizer, "left pain"), end),
        ],
        length=19,
    )


def by(sample):
    return [(token.text, token.by) for token in sample.tokens]


def test_the_mark_is_on_the_token_that_is_predicted(row):
    labelled, prompt, text, padding = row.samples
    assert by(labelled) == [
        ("<|im_start|>", "none"),
        ("user", "none"),
        ("\n", "none"),
        ("pain", "none"),
        ("<|im_end|>", "none"),
        ("\n", "none"),
        ("<|im_start|>", "none"),
        ("assistant", "none"),
        ("\n", "none"),
        ("heart", "both"),
        ("<|im_end|>", "both"),
        ("\n", "none"),
    ]
    assert by(prompt) == [("left", "none")]
    assert by(text) == [("left", "none"), (" pain", "both"), ("<|end|>", "both")]
    assert by(padding) == [("<|end|>", "padding")] * 3
    assert [sample.source for sample in row.samples] == ["a", "b", "c", None]


def test_what_only_the_teacher_says_is_behind_the_prompt(row):
    assert [sample.after for sample in row.samples] == ["none", "teacher", "none", "none"]


def test_the_data_alone_may_supervise_too(tokenizer):
    sample = Sample("a", encode(tokenizer, "left pain"), [True, False], [False, False])
    (part,) = shown(tokenizer, [sample], length=2).samples
    assert by(part) == [("left", "none"), (" pain", "data")]


def test_predictions_are_counted_by_who_supervises_them(row):
    assert counts([row, row]) == {
        "organ.labelled": {
            "rows": 2, "tokens": 32, "none": 24, "data": 0, "teacher": 2, "both": 8, "padding": 6,
        }
    }  # fmt: skip


def test_as_many_predictions_are_counted_as_the_masks_hold(row):
    kept = [*row.columns["label_mask"], *row.columns["teacher_mask"]].count(True)
    table = counts([row])["organ.labelled"]
    assert kept == 2 * table["both"] + table["teacher"] + table["data"]


def test_plain_values_hold_the_ids_the_texts_and_the_masks(row):
    made = plain([row])["rows"][0]
    assert made["input_ids"] == row.columns["input_ids"]
    assert (made["label_mask"], made["teacher_mask"]) == (
        row.columns["label_mask"],
        row.columns["teacher_mask"],
    )
    assert made["texts"][9:11] == ["heart", "<|im_end|>"]
    assert [i for i, who in enumerate(made["supervised_by"]) if who == "both"] == [9, 10, 14, 15]
    assert [i for i, gold in enumerate(made["label_mask"]) if gold] == [8, 9, 13, 14]
    assert made["stream"] == "organ.labelled"
    assert made["sources"] == ["a", "b", "c"]


def printed(rows, **how):
    out = Console(file=io.StringIO(), width=160, **how)
    print_rows(rows, out)
    return out.file.getvalue()


def test_without_colours_brackets_say_it(row):
    lines = printed([row]).splitlines()
    assert lines[0] == "organ.labelled/train  organ:train:00000:000000"
    assert lines[1:5] == [
        "   1 <|im_start|>user⏎pain<|im_end|>⏎<|im_start|>assistant⏎[[heart]][[<|im_end|>]]⏎",
        "   2 left{{?}}",
        "   3 left[[ pain]][[<|end|>]]",
        "     padding: 3 tokens, never supervised",
    ]
    assert "the mask before it, at i, speaks of token i + 1" in printed([row])
    assert "(( token )) supervised by the data alone" in printed([row])


def test_colours_take_the_place_of_brackets(row):
    text = printed([row], force_terminal=True, color_system="standard")
    assert "[[" not in text
    assert "\x1b[30;42mheart" in text or "\x1b[1;30;42mheart" in text
    assert "[[heart]]" in printed([row], force_terminal=True, no_color=True)


def test_control_characters_are_shown_and_not_sent_to_the_terminal(tokenizer):
    sample = text_sample("a", encode(tokenizer, "\x1b[31m\tred\x07"), tokenizer.eos_token_id)
    text = printed([shown(tokenizer, [sample])])
    assert "␛" in text
    assert "␉" in text
    assert "␇" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("text", ["naïve 漢字 🙂 pain", " left  pain\n", "<|im_start|>user"])
def test_the_texts_of_tokens_join_to_the_text(tokenizer, text):
    ids = encode(tokenizer, text)
    assert "".join(token_texts(ids, tokenizer)) == text
    assert len(token_texts(ids, tokenizer)) == len(ids)


def test_a_character_that_is_cut_off_is_shown_as_such(tokenizer):
    ids = encode(tokenizer, "pain 🙂")[:-1]
    assert "".join(token_texts(ids, tokenizer)) == tokenizer.decode(ids)


def test_an_unknown_stream_or_split_is_refused_with_the_nearest(tmp_path):
    cfg = RunConfig.model_validate(config(tmp_path))
    refuse_unknown(cfg, "organ.prompts", "test")
    with pytest.raises(InputError, match=r"--stream: no 'organ.promts'. Did you mean 'organ.prom"):
        refuse_unknown(cfg, "organ.promts", "train")
    with pytest.raises(InputError, match=r"--split: no 'valid'. Did you mean 'validation'"):
        refuse_unknown(cfg, None, "valid")
