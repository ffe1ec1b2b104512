"""From a YAML file to a RunConfig, or to every problem in it at once."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from distill_ray.config import InputError, RunConfig, load_config

MINIMAL = Path(__file__).parent / "minimal.yaml"


def test_the_minimal_config_is_a_run_with_its_defaults():
    cfg = load_config(MINIMAL)
    assert [t.name for t in cfg.teachers] == ["big", "wide"]
    assert cfg.distill.schedule.kind == "on_plateau"
    assert cfg.distill.schedule.window == 50
    assert cfg.probe.seeds == (0, 1, 2)
    assert cfg.probe.objective.alpha == 1.0
    assert cfg.streams() == {
        "notes": "text", "triage.labelled": "task", "triage.prompts": "task",
    }  # fmt: skip


def test_every_key_of_the_minimal_config_is_needed(editor):
    for key in ("name", "student", "teachers", "corpora", "tasks", "probe", "distill"):
        assert editor.problems(drop=[key])[0].startswith(f"{key}: field required")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("sed", "sed: unknown key, got 7. Did you mean 'seed'?"),
        ("audit", "audit.num_bin: unknown key, got 7. Did you mean 'num_bins'?"),
        ("student/model/pth", "student.model.pth: unknown key, got 7. Did you mean 'path'?"),
        ("teachers/1/recipe", "teachers.1.recipe: unknown key, got 7. Did you mean 'recipes'?"),
        (
            "corpora/sources/0/source/text_colum",
            "corpora.sources.0.source.text_colum: unknown key, got 7. Did you mean 'text_column'?",
        ),
        (
            "adapt/recipes/sft/learning_rat",
            "adapt.recipes.sft.learning_rat: unknown key, got 7. Did you mean 'learning_rate'?",
        ),
        (
            "distill/schedule/windw",
            "distill.schedule.on_plateau.windw: unknown key, got 7. Did you mean 'window'?",
        ),
        (
            "distill/objectve",
            "distill.objectve: unknown key, got 7. Did you mean 'objective'?",
        ),
    ],
)
def test_a_misspelt_key_is_refused_with_its_place_and_neighbour(editor, path, message):
    change = {"audit": {"num_bin": 7}} if path == "audit" else {path: 7}
    assert editor.problems(change) == [message]


def test_a_key_like_no_other_is_refused_with_the_allowed_ones(editor):
    (problem,) = editor.problems({"distill/schedule/zzz": 1})
    assert problem.endswith("Allowed: kind, min_gain, window.")


def test_a_key_of_another_member_of_a_union_is_refused(editor):
    (problem,) = editor.problems({"distill/schedule": {"kind": "fixed", "window": 5}})
    assert problem.startswith("distill.schedule.fixed.window: unknown key, got 5.")


def test_an_unknown_kind_names_the_kinds_there_are(editor):
    (problem,) = editor.problems({"distill/schedule/kind": "on_platau"})
    assert problem.startswith("distill.schedule: ")
    assert "'on_plateau'" in problem


def test_a_union_without_its_kind_says_what_is_missing(editor):
    (problem,) = editor.problems({"distill/schedule": {"num_curve_points": 2}})
    assert problem.startswith(
        "distill.schedule: has no kind, got {'num_curve_points': 2}. Set its kind"
    )


def test_all_problems_are_told_at_once(editor):
    problems = editor.problems(
        {"sed": 1, "probe/token_budget": -5, "distill/schedule/windw": 5, "student/model/path": "x"}
    )
    places = [problem.partition(":")[0] for problem in problems]
    assert sorted(places) == [
        "distill.schedule.on_plateau.windw", "probe.token_budget", "sed", "student.model",
    ]  # fmt: skip


def test_the_message_names_the_file_and_lists_the_problems_below(editor):
    with pytest.raises(InputError) as caught:
        editor.load({"sed": 1, "probe/token_budget": -5})
    first, *others = str(caught.value).splitlines()
    assert first == f"{editor.path} is not a valid run:"
    assert len(others) == 2
    assert all(line.startswith("  ") for line in others)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probe/token_budget": 0}, "probe.token_budget: Input should be greater than 0, got 0."),
        ({"name": "../up"}, "name: String should match pattern"),
        ({"probe/mix": {}}, "probe.mix: Dictionary should have at least 1 item"),
        ({"probe/seeds": [1]}, "probe.seeds: Tuple should have at least 2 items"),
        ({"student/tokenizer": None}, "student: an init model has no tokenizer"),
        (
            {"distill/schedule": {"kind": "at_steps", "steps": [5, 3]}},
            "distill.schedule.at_steps: steps must increase, got [5, 3].",
        ),
        ({"tasks/0/prompt": "no place"}, "tasks.0: prompt must hold {text}"),
        ({"tasks/0/system": "Be brief."}, "tasks.0: system is a turn of a chat: set chat: true"),
        ({"corpora/batching": "group"}, "corpora.batching: Input should be 'packed' or 'grouped'"),
        (
            {"distill/objective": {"match": {"attention": {}}}},
            "distill: objective.match.attention: only eager attention returns its maps, and "
            "attn_implementation is sdpa. Set attn_implementation eager.",
        ),
        (
            {"probe/objective": {"match": {"attention": {}}}},
            "probe: objective.match.attention: only eager attention returns its maps",
        ),
        (
            {"distill/objective": {"match": {"hidden": {}}}, "distill/serving": {"kind": "pool"}},
            "distill: objective.match: the teacher's layers are read in the worker, and serving is "
            "pool. Set serving colocated.",
        ),
        (
            {"corpora/test_fraction": 0.9},
            "corpora: validation_fraction 0.05 and test_fraction 0.9 leave under a tenth",
        ),
        (
            {"corpora/sources/0/source": {"callable": "pkg.mod"}},
            "corpora.sources.0.source: callable 'pkg.mod' is not of the form",
        ),
        (
            {"corpora/sources/0/source": {"csv": "a", "jsonl": "b"}},
            "corpora.sources.0.source: needs exactly one of jsonl, csv",
        ),
        ({"student/model": {"init": {"hidden_size": 8}}}, "student.model: init needs a model_type"),
        ({"teachers/1/checkpoint": 1}, "teachers.1: checkpoint counts those of the last recipe"),
        ({"probe/race": {"confidence": 0.5}}, "probe.race.confidence: Input should be greater"),
    ],
)
def test_a_value_out_of_bounds_is_refused_where_it_stands(editor, change, message):
    (problem,) = editor.problems(change)
    assert problem.startswith(message)


@pytest.mark.parametrize(
    ("model", "given"), [({}, "none"), ({"hub": "a/b", "path": "c"}, "['hub', 'path']")]
)
def test_a_model_has_exactly_one_origin(editor, model, given):
    (problem,) = editor.problems({"teachers/0/model": model})
    expected = f"needs exactly one of hub, path, gguf, init, got {given}."
    assert problem == f"teachers.0.model: {expected}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probe/mix": {"note": 1}}, "probe.mix: no stream 'note'. Did you mean 'notes'?"),
        (
            {"distill/mix": {"triage.labeled": 1}},
            "distill.mix: no stream 'triage.labeled'. Did you mean 'triage.labelled'?",
        ),
        ({"adapt/recipes/sft/mix": {"x": 1}}, "adapt.recipes.sft.mix: no stream 'x'."),
        ({"teachers/0/recipes": ["stf"]}, "teachers.big.recipes: no recipe 'stf'. Did you mean"),
        (
            {"distill/global_batch_size": 30},
            "distill.global_batch_size: 30 is not a multiple of 1 workers",
        ),
        (
            {"cluster": {"num_workers": 3}},
            "distill.global_batch_size: 32 is not a multiple of 3 workers",
        ),
        ({"teachers/1/name": "big"}, "teachers: names must differ, 'big' is there twice"),
        ({"student/recipes": ["stf"]}, "student.recipes: no recipe 'stf'. Did you mean 'sft'?"),
        (
            {"student/recipes": ["sft"], "adapt/recipes/sft/method": "lora"},
            "student.recipes: 'sft' trains adapters, and the student's own weights are to be",
        ),
        (
            {"teachers/0/checkpoint": 4},
            "teachers.big.checkpoint: 4 of 3 that 'sft' keeps",
        ),
    ],
)
def test_names_and_batches_must_fit_together(editor, change, message):
    assert message in "; ".join(editor.problems(change))


def test_references_that_fail_are_told_all_at_once(editor):
    (problem,) = editor.problems(
        {"probe/mix": {"a": 1}, "distill/mix": {"b": 1}, "teachers/0/recipes": ["c"]}
    )
    assert all(part in problem for part in ("no stream 'a'", "no stream 'b'", "no recipe 'c'"))


def test_a_config_is_frozen():
    cfg = load_config(MINIMAL)
    with pytest.raises(ValidationError, match="frozen"):
        cfg.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        cfg.distill.schedule.window = 1


def test_a_config_survives_its_own_dump():
    cfg = load_config(MINIMAL)
    assert RunConfig.model_validate(cfg.model_dump(mode="json")) == cfg
    assert RunConfig.model_validate_json(cfg.model_dump_json()) == cfg


def test_a_budget_is_cut_into_whole_steps_and_one_at_least():
    probe = load_config(
        MINIMAL,
        ["probe.global_batch_size=8", "probe.token_budget=1000", "probe.num_curve_points=1"],
    ).probe
    assert [probe.num_steps(t) for t in (10, 62, 63, 1000)] == [12, 2, 1, 1]


def test_reading_a_config_imports_neither_torch_nor_ray_nor_transformers():
    code = (
        "import sys; from pathlib import Path; from distill_ray.config import load_config;"
        f"load_config(Path({str(MINIMAL)!r}));"
        "print([m for m in ('torch', 'ray', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
