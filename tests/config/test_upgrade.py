"""`config upgrade` changes the renamed words of a file and nothing else; a run names them."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from distill_ray.config import InputError, load_config
from distill_ray.config.load import load_study
from distill_ray.config.renamed import RUN, STUDY
from distill_ray.config.study import STUDIES, ScheduleStudy
from distill_ray.config.upgrade import counts, renew, upgrade

CONFIGS = Path(__file__).parents[2] / "configs"
OLD_RUN = """\
# A run of 0.1: tokens stay in comments.
name: "old"   # its name
student:
  model: {path: student, layers: 2}
teachers:
  - {name: big, model: {init: {model_type: llama, layers: 3}}, recipes: [tokens]}
corpora:
  buckets:   4
  sources:
    - name: notes
      source: {text: notes.txt, limit: 10}
tasks:
  - name: triage
    labelled_rows: 5
    source: {dataset: some, dataset_split: tokens, options: {tokens: 3}}
adapt:
  recipes:
    tokens: &training   # A recipe may have any name.
      'tokens': 100_000
      "batch_rows": 8
      warmup: 0.5
      mix: {notes: 1}
probe: {<<: *training, rungs: 2}
distill:
  ? tokens
  : 200_000
  mix: {notes: 1}
  at_switch: {warmup: 0.1}
  first: big
  schedule:
    kind: 'equal_stages'
rank:
  early: {ease: low, peak: low, domain: low}
"""
NEW_RUN = """\
# A run of 0.1: tokens stay in comments.
name: "old"   # its name
student:
  model: {path: student, num_hidden_layers: 2}
teachers:
  - {name: big, model: {init: {model_type: llama, layers: 3}}, recipes: [tokens]}
corpora:
  sources:
    - name: notes
      source: {text: notes.txt, max_rows: 10}
tasks:
  - name: triage
    num_labelled_rows: 5
    source: {dataset: some, split: tokens, options: {tokens: 3}}
adapt:
  recipes:
    tokens: &training   # A recipe may have any name.
      'token_budget': 100_000
      "global_batch_size": 8
      warmup_ratio: 0.5
      mix: {notes: 1}
probe: {<<: *training, num_curve_points: 2}
distill:
  ? token_budget
  : 200_000
  mix: {notes: 1}
  on_switch: {warmup_ratio: 0.1}
  first_teacher: big
  schedule:
    kind: 'equal_periods'
rank:
  early: {learnability: low, accuracy_above_chance: low, domain_knowledge: low}
"""
OLD_STUDY = """\
name: when
untouched: [a]
rungs: 2
default: strongest
arms:
  strongest: {begin: strongest}
  mine: {begin: late, distill: {tokens: 5, schedule: {kind: ranked, every: 3}}}
run: {distill: {tokens: 4}}
domains: {a: {probe: {tokens: 3}}}
"""
NEW_STUDY = """\
name: when
held_out_domains: [a]
num_curve_points: 2
default: most_accurate
arms:
  most_accurate: {first_teacher: most_accurate}
  mine: {first_teacher: late, distill: {token_budget: 5, schedule: {kind: ranked, interval: 3}}}
run: {distill: {token_budget: 4}}
domains: {a: {probe: {token_budget: 3}}}
"""


@pytest.mark.parametrize(("old", "new"), [(OLD_RUN, NEW_RUN), (OLD_STUDY, NEW_STUDY)])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_nothing_but_the_renamed_words_changes(old, new, ends, mark):
    old, new = (mark + text.replace("\n", ends) for text in (old, new))
    text, changes = upgrade(old, "old.yaml")
    assert text == new and changes
    assert upgrade(new, "new.yaml") == (new, []), "twice is once"


def test_what_is_changed_is_counted():
    assert counts(upgrade("probe: {tokens: 1}\ndistill: {tokens: 2, clip: 1}\n", "f")[1]) == {
        "tokens → token_budget": 2,
        "clip → max_grad_norm": 1,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("probe: {tokens: 1, token_budget: 2}", "given under both names, tokens and token_budget"),
        ("probe: {tokens: 1, tokens: 2}", "key 'tokens' is given twice"),
        ("corpora: &x {test: 0.1}\nprobe: *x", "test_fraction at corpora.test_fraction and test"),
        ("distill: {schedule: {kind: &x equal_stages}}\nname: *x", "through one anchor"),
        ("- tokens", "must hold one mapping"),
        ("", "must hold one mapping"),
        ("a: 1\n---\nb: 2", "several documents"),
        ("probe: {tokens: [", "not YAML"),
        ("probe: &p {deeper: *p}", "holds itself"),
    ],
)
def test_what_can_not_be_upgraded_without_a_choice_is_refused(text, message):
    with pytest.raises(InputError) as caught:
        upgrade(text, "old.yaml")
    assert message in str(caught.value)


def test_no_new_name_is_an_old_one_in_its_section():
    """Else a second upgrade would go on."""
    for renames in (RUN, STUDY):
        for table in (renames.keys, renames.values):
            for section in table:
                path = section.split(".") if section else []
                names = renames.key if table is renames.keys else renames.value
                assert not [new for new in table[section].values() if names(path, new)], section


@pytest.mark.parametrize("old", [OLD_RUN, OLD_STUDY])
def test_errors_know_what_the_upgrade_knows(old):
    data = yaml.safe_load(old)
    upgraded = yaml.safe_load(upgrade(old, "old.yaml")[0])
    renewed, problems = renew(data)
    assert renewed == upgraded
    assert problems
    assert renew(upgraded) == (upgraded, [])


def test_shipped_configs_need_no_upgrade():
    for file in [*CONFIGS.glob("*.yaml"), *CONFIGS.glob("*/*.yaml")]:
        assert upgrade(file.read_text(), file.name)[1] == []


def test_a_run_names_every_old_key_and_the_command_and_all_else_that_is_wrong(editor):
    changes = {"probe/tokens": 5, "distill/at_switch": {"warmup": 0.1}, "sed": 1}
    problems = editor.problems(changes, drop=["probe/token_budget"])
    assert problems[:4] == [
        "distill.at_switch: renamed to on_switch in 0.2.",
        "distill.at_switch.warmup: renamed to warmup_ratio in 0.2.",
        "probe.tokens: renamed to token_budget in 0.2.",
        f"{editor.path}: is written for version 0.1. Run distill-ray config upgrade {editor.path}",
    ]
    assert problems[4:] == ["sed: unknown key, got 1. Did you mean 'seed'?"]


def test_an_old_value_is_named(editor):
    problems = editor.problems({"distill/schedule": {"kind": "equal_stages"}})
    assert problems[0] == (
        "distill.schedule.kind: the value equal_stages is renamed to equal_periods in 0.2."
    )


def test_an_old_key_in_a_flag_is_named_as_the_flag_s(editor):
    problems = editor.problems(overrides=["distill.validate_every=5", "audit.bins=7"])
    assert problems == [
        "--set distill.validate_every: renamed to eval_steps in 0.2.",
        "--set audit.bins: renamed to num_bins in 0.2.",
    ]


@pytest.mark.parametrize("kind", sorted(STUDIES))
def test_a_study_names_its_old_keys(tmp_path, kind):
    file = tmp_path / "study.yaml"
    text = (CONFIGS / "studies" / f"{kind}.yaml").read_text()
    file.write_text(
        text.replace("num_curve_points:", "rungs:").replace("global_batch_size", "batch_rows")
    )
    with pytest.raises(InputError) as caught:
        load_study(STUDIES[kind], file)
    told = str(caught.value)
    assert "renamed to num_curve_points" in told and "renamed to global_batch_size" in told
    file.write_text(upgrade(file.read_text(), "study.yaml")[0])
    assert file.read_text() == text
    load_study(STUDIES[kind], file)


def test_an_old_arm_is_named(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(OLD_STUDY)
    with pytest.raises(InputError) as caught:
        load_study(ScheduleStudy, file)
    assert "arms.strongest.begin: the value strongest is renamed to most_accurate" in str(
        caught.value
    )


def command(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "distill_ray", "config", "upgrade", *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_the_command_checks_writes_once_and_says_what_it_did(tmp_path, editor):
    editor.load()
    new = "# kept\n" + editor.path.read_text()
    old = new.replace("token_budget", "tokens")
    editor.path.write_text(old)
    editor.path.chmod(0o640)
    link = tmp_path / "link.yaml"
    link.symlink_to(editor.path)
    code, told, _ = command("--check", link)
    assert code == 1 and "tokens → token_budget (3 times)" in told and "would change" in told
    assert editor.path.read_text() == old
    code, told, _ = command(link)
    assert code == 0 and "tokens → token_budget (3 times)" in told and "in 3 places" in told
    assert editor.path.read_text() == new and link.is_symlink()
    assert editor.path.stat().st_mode & 0o777 == 0o640
    code, told, _ = command("--check", link)
    assert code == 0 and "is up to date" in told
    assert {path.name for path in tmp_path.iterdir()} == {"link.yaml", editor.path.name}
    load_config(editor.path)


def test_a_file_that_can_not_be_read_ends_with_two(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("nowhere.yaml", "binary.yaml"):
        code, told, error = command(tmp_path / name)
        assert (code, told) == (2, "") and f"{name} can't be read" in error


def test_an_old_key_with_an_old_value_is_told_twice():
    _, problems = renew({"domains": {}, "arms": {"mine": {"begin": "strongest"}}})
    assert [str(problem) for problem in problems] == [
        "arms.mine.begin: renamed to first_teacher in 0.2.",
        "arms.mine.begin: the value strongest is renamed to most_accurate in 0.2.",
    ]
