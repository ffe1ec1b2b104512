"""`--set` flags, and files that can't be read."""

import pytest

from distill_ray.config import InputError, load_config


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("seed=7", lambda c: c.seed == 7),
        ("distill.schedule.window=9", lambda c: c.distill.schedule.window == 9),
        ("distill.objective.alpha=0.5", lambda c: c.distill.objective.alpha == 0.5),
        ("teachers.wide.recipes=[sft]", lambda c: c.teachers[1].recipes == ("sft",)),
        ("teachers.1.name=deep", lambda c: c.teachers[1].name == "deep"),
        ("adapt.recipes.sft.mix={notes: 2}", lambda c: c.adapt.recipes["sft"].mix == {"notes": 2}),
        (
            "corpora.sources.notes.source.max_rows=3",
            lambda c: c.corpora.sources[0].source.max_rows == 3,
        ),
        ("report.title=a=b", lambda c: c.report.title == "a=b"),
    ],
)
def test_an_override_reaches_sections_items_by_name_and_items_by_index(editor, override, value):
    assert not value(editor.load())
    assert value(editor.load(overrides=[override]))


def test_the_last_override_of_a_key_wins(editor):
    assert editor.load(overrides=["seed=1", "seed=2"]).seed == 2


def test_a_whole_item_can_be_replaced_by_index(editor):
    cfg = editor.load(overrides=["teachers.1={name: new, model: {hub: a/b}}"])
    assert cfg.teachers[1].model.hub == "a/b"


def test_an_override_is_checked_like_the_file(editor):
    (problem,) = editor.problems(overrides=["distill.schedule.windw=5"])
    assert problem.startswith("distill.schedule.on_plateau.windw: unknown key, got 5. Did you mean")
    assert editor.problems(overrides=["distil.token_budget=5"])[0].startswith("distil: unknown key")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "--set: got 'seed'; write section.key=value."),
        ("=5", "--set: got '=5'; write section.key=value."),
        ("teachers.wid.name=x", "no item 'wid'. Did you mean 'wide'?"),
        ("teachers.2.name=x", "no item '2'. Allowed: big, wide."),
        ("teachers.-1.name=x", "no item '-1'."),
        ("probe.seeds.5=1", "no item '5'. Allowed: 0, 1."),
        ("seed.x=1", "--set seed.x=1: seed is a int"),
        ("name.x.y=1", "--set name.x.y=1: 'x' can't be below a str"),
        ("seed=[1", "--set seed=[1: not YAML: "),
    ],
)
def test_an_override_that_leads_nowhere_is_refused(editor, override, message):
    (problem,) = editor.problems({"seed": 0, "probe/seeds": [0, 1]}, overrides=[override])
    assert message in problem


def _refusal(path, text):
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(path)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "name: a\nseed: 1\nname: b\n",
        "name: a\nprobe:\n  name: 1\n  tokens: 5\n  name: 2\n",
        "teachers:\n  - {name: a, name: b}\n",
    ],
)
def test_a_key_given_twice_is_refused_at_any_depth(tmp_path, text):
    assert "key 'name' is given twice" in _refusal(tmp_path / "run.yaml", text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold a mapping of sections, got NoneType"),
        ("- a\n- b\n", "must hold a mapping of sections, got list"),
        ("name: [1\n", "expected ',' or ']'"),
        ("? [a, b]\n: 1\n", "found unhashable key"),
    ],
)
def test_a_file_that_is_no_mapping_is_an_input_error(tmp_path, text, message):
    assert message in _refusal(tmp_path / "run.yaml", text)


def test_a_file_that_is_not_text_is_an_input_error(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="can't be read"):
        load_config(path)


def test_a_missing_file_is_refused_with_its_neighbour(tmp_path):
    (tmp_path / "medical.yaml").write_text("name: a\n")
    with pytest.raises(InputError, match=r"no such file\. Did you mean '.*medical.yaml'"):
        load_config(tmp_path / "medcal.yaml")
