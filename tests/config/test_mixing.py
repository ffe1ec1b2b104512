"""Shares of tokens or rows, and mixes that change: what is taken, and what is refused."""

import pytest

from distill_ray.config.training import without

LATER = {"at": 0.5, "mix": {"triage.labelled": 1}}


def test_shares_are_of_tokens_and_stay_as_they_are(editor):
    mixing = editor.load().distill.mixing
    assert (mixing.by, mixing.changes, mixing.interpolation) == ("tokens", (), "step")


def test_every_mix_names_streams_that_there_are(editor):
    cfg = editor.load({"distill/mixing": {"changes": [LATER]}})
    assert cfg.distill.streams == {*cfg.distill.mix, "triage.labelled"}


@pytest.mark.parametrize(
    ("mixing", "message"),
    [
        (
            {"changes": [{"at": 0.5, "mix": {"note": 1}}]},
            "distill.mixing.changes.0.mix: no stream 'note'. Did you mean 'notes'?",
        ),
        (
            {"changes": [LATER, {"at": 0.6, "mix": {"triage.prompts": 1}}]},
            "distill.mixing.changes.1.mix: prompts alone teach nothing without a teacher",
        ),
        (
            {"changes": [LATER, LATER]},
            "distill.mixing: changes: `at` must increase, got [0.5, 0.5].",
        ),
        (
            {"interpolation": "linear"},
            "distill.mixing: interpolation linear needs changes to move to",
        ),
        ({"changes": [{**LATER, "at": 1.0}]}, "distill.mixing.changes.0.at: Input should be less"),
        ({"changes": [{"at": 0.5}]}, "distill.mixing.changes.0.mix: field required"),
        ({"by": "row"}, "distill.mixing.by: Input should be 'tokens' or 'rows', got 'row'."),
    ],
)
def test_a_mix_that_can_t_be_is_refused_where_it_stands(editor, mixing, message):
    assert message in "; ".join(editor.problems({"distill/mixing": mixing}))


def test_a_training_without_prompts_gives_their_share_to_the_others_of_each_mix(editor):
    changes = [{"at": 0.5, "mix": {"notes": 1, "triage.labelled": 2, "triage.prompts": 4}}]
    mix = {"triage.labelled": 3, "triage.prompts": 6}
    cfg = editor.load({"distill/mix": mix, "distill/mixing": {"changes": changes}}).distill
    rest = without(cfg, {"triage.prompts"})
    assert [*rest.mixes] == [{"triage.labelled": 3}, {"notes": 1, "triage.labelled": 2}]
    assert rest.model_copy(update={"mix": cfg.mix, "mixing": cfg.mixing}) == cfg
    assert without(cfg, {"triage.labelled", "triage.prompts"}).mix == cfg.mix
