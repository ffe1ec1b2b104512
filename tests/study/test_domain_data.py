"""Which text, and whose answers to it: what is compared, and what the data say of the papers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cli_runs import write_domain_study
from stage_results import answers, run_of, student_metrics, trial

from distill_ray.config import InputError
from distill_ray.config.load import load_study
from distill_ray.config.study import DomainDataStudy
from distill_ray.core.calibration import right_each
from distill_ray.data.examples import Questions
from distill_ray.stages.results.trial import ANSWERS, Trial
from distill_ray.study.common import Cost
from distill_ray.study.domain_data.compare import (
    DomainResult,
    arms_of,
    compared,
    contrasts_of,
    overall_of,
)
from distill_ray.study.domain_data.page import write_page
from distill_ray.study.domain_data.run import DomainDataResults, require
from distill_ray.study.page import plain

N, OPTIONS = 200, 4
CFG = DomainDataStudy(
    name="texts",
    run={},
    domains={"a": {}, "b": {}},
    seeds=(0, 1),
    held_out_domains=("b",),
    num_bootstrap=300,
)
AS_PUBLISHED = {
    "raw-generic": (0.40, 0.42),
    "raw-mixed": (0.52, 0.50),
    "raw-domain": (0.60, 0.62),
    "adapted-generic": (0.50, 0.54),
    "adapted-mixed": (0.64, 0.62),
    "adapted-domain": (0.80, 0.78),
    "untaught-domain": (0.55, 0.55),
    "unread": (0.30, 0.30),
}
"""Way → share of right answers on test with each seed."""


def questions() -> Questions:
    asked = answers(N, OPTIONS, 0, right=0.5)
    ids, options = [f"q{i}" for i in range(N)], [[k] for k in range(OPTIONS)]
    return Questions("organ", ids, [[1]] * N, options, list("abcd"), list(asked.gold), ids)


def told(
    folder: Path,
    shares: dict[str, tuple[float, ...]] | None = None,
    *,
    failed: tuple[tuple[str, int], ...] = (),
    tokens: dict[str, int] | None = None,
    cost: Cost | None = None,
) -> DomainResult:
    """A domain whose students answered so."""
    run = run_of(folder, "raw", "adapted")
    readings: dict[str, dict[int, Trial]] = {}
    tuned: dict[str, dict[int, Trial]] = {}
    for name, values in (shares or AS_PUBLISHED).items():
        read = {"domain": {"rows": 10, "tokens": (tokens or {}).get(name, 1000)}}
        if name != "unread":
            readings[name] = {s: trial(run, "reading", name, s, {"streams": read}) for s in (0, 1)}
        tuned[name] = {seed: _tuned(run, name, seed, share) for seed, share in enumerate(values)}
    for name, seed in failed:
        tuned[name][seed] = trial(run, "fine-tune", f"{name}-again", seed, "diverged")
    return compared(CFG, folder.name, readings, tuned, [questions()], cost or Cost(1.0, 1.0))


def _tuned(run: Any, name: str, seed: int, share: float) -> Trial:
    learned = {"organ.labelled": {"rows": 5, "tokens": 50}}
    result = {"before": student_metrics(accuracy=0.2), "streams": learned}
    made = trial(run, "fine-tune", name, seed, result)
    asked = answers(N, OPTIONS, 0, right=share)
    file = io.BytesIO()
    np.savez(file, **{"test/organ": np.asarray(asked.scores)})
    made.artifact.storage.write_bytes(f"{made.artifact.path}/{ANSWERS}", file.getvalue())
    return made


def by_name(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in rows}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> DomainResult:
    return told(tmp_path_factory.mktemp("study") / "a", cost=Cost(100.0, 250.0))


def test_every_text_is_read_with_every_teacher_and_two_ways_do_without(
    published: DomainResult,
) -> None:
    assert {arm.name for arm in arms_of(CFG)} == set(AS_PUBLISHED)
    assert set(plain(published.row)["students"]) == set(AS_PUBLISHED)
    assert plain(published.row)["students"]["unread"]["read"] == {}


def test_a_contrast_takes_from_some_students_what_it_gives_to_others() -> None:
    for contrast in contrasts_of(CFG):
        assert sum(contrast.weights.values()) == pytest.approx(0)
        assert sum(abs(w) for w in contrast.weights.values()) == pytest.approx(2)


def test_a_difference_is_that_of_the_shares_of_right_answers(published: DomainResult) -> None:
    found = by_name(plain(published.row)["contrasts"])
    mean = {name: sum(values) / 2 for name, values in AS_PUBLISHED.items()}
    expected = {
        "mixed over generic": (
            mean["raw-mixed"] + mean["adapted-mixed"] - mean["raw-generic"]
            - mean["adapted-generic"]
        ) / 2,
        "adapted over raw": sum(
            mean[f"adapted-{arm}"] - mean[f"raw-{arm}"] for arm in ("generic", "mixed", "domain")
        ) / 3,
        "domain over mixed, raw teacher": mean["raw-domain"] - mean["raw-mixed"],
        "adapted-domain over fine-tuned only": mean["adapted-domain"] - mean["unread"],
    }  # fmt: skip
    for name, value in expected.items():
        assert found[name]["accuracy"]["value"] == pytest.approx(value)
    assert found["domain over mixed, raw teacher"]["accuracy"]["seeds"] == pytest.approx(
        [0.08, 0.12]
    )


def test_the_published_shape_is_shown_where_it_is_there(published: DomainResult) -> None:
    claims = [row for row in plain(published.row)["contrasts"] if row["claim"]]
    names = ["mixed over generic", "domain over mixed", "adapted over raw"]
    assert [(row["name"], row["finding"]) for row in claims] == [(name, "shown") for name in names]
    assert all(row["nll"]["verdict"] == "better" and row["nll"]["value"] < 0 for row in claims)


def test_equal_students_show_no_difference_and_worse_ones_contradict(tmp_path: Path) -> None:
    turned = {
        **AS_PUBLISHED,
        "raw-mixed": AS_PUBLISHED["raw-generic"],
        "adapted-mixed": AS_PUBLISHED["adapted-generic"],
        "raw-domain": (0.2, 0.2),
        "adapted-domain": (0.2, 0.2),
    }
    found = by_name(plain(told(tmp_path / "a", turned).row)["contrasts"])
    same = found["mixed over generic"]
    # Paired by question: equal answers differ by nothing, in every resample.
    assert {same["accuracy"][k] for k in ("value", "low", "high")} == {0.0}
    assert same["finding"] == "not shown"
    assert found["domain over mixed"]["finding"] == "contradicted"


def test_an_interval_is_that_of_the_mean_over_seeds_of_each_question(
    published: DomainResult,
) -> None:
    task, share = published.tasks[0], AS_PUBLISHED["raw-domain"]
    gold = np.asarray(questions().answer_index)
    right = [right_each(np.asarray(answers(N, OPTIONS, 0, right=s).scores), gold) for s in share]
    np.testing.assert_array_equal(task.arms["raw-domain"]["accuracy"], right)


def test_a_student_of_which_a_seed_failed_is_left_out_with_what_needs_it(tmp_path: Path) -> None:
    row = plain(told(tmp_path / "a", failed=(("raw-generic", 1),)).row)
    assert "raw-generic" not in row["students"]
    found = by_name(row["contrasts"])
    assert "domain over mixed" in found and "mixed over generic" not in found
    assert "adapted over raw" not in found and "adapted over raw, on mixed" in found
    assert row["failed"] == [{"student": "raw-generic", "seed": 1, "reason": "diverged"}]


def test_without_a_single_claim_there_is_nothing_to_compare(tmp_path: Path) -> None:
    failed = (("raw-mixed", 0), ("raw-generic", 0))
    with pytest.raises(InputError, match=r"6 of 8 arms ended with every seed"):
        told(tmp_path / "a", failed=failed)


@pytest.fixture(scope="module")
def page(published: DomainResult, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of two domains; the second one contradicts that the domain's text is better than both."""
    base = tmp_path_factory.mktemp("pages")
    turned = {**AS_PUBLISHED, "raw-domain": (0.1, 0.1), "adapted-domain": (0.2, 0.2)}
    other = told(base / "b", turned, tokens={"raw-generic": 1100}, cost=Cost(200.0, 250.0))
    parts = {"a": published, "b": other}
    overall = {
        "all": overall_of(CFG, [*parts.values()]),
        "chosen on": overall_of(CFG, [published]),
        "held out": overall_of(CFG, [other]),
    }
    found = DomainDataResults(CFG, {name: part.row for name, part in parts.items()}, overall)
    written = write_page(found, base / "results", "distill-ray study domain-data x.yaml")
    data = json.loads(written.with_suffix(".json").read_text())
    assert data["domains"]["b"]["contrasts"] == plain(other.row)["contrasts"]
    for domain in parts:
        plot = (written.parent / f"texts-{domain}.svg").read_text()
        assert all(f">{word}<" in plot for word in ("raw", "adapted", "generic", "mixed"))
    return written.read_text()


def test_the_page_says_what_the_papers_say_and_where_the_data_disagree(page: str) -> None:
    assert "Published shape: generic < mixed < domain; adapted > raw (EMNLP 2022" in page
    (own,) = [line for line in page.splitlines() if line.startswith("On held-out domains: ")]
    assert "domain over mixed −42.0 (" in own and "points of accuracy, contradicted" in own
    (disagree,) = [line for line in page.splitlines() if line.startswith("Where the data disagree")]
    assert "the data contradict the papers in domain over mixed" in disagree
    assert "single domains contradict them: domain over mixed on b" in disagree
    assert "mixed (7:3 generic:domain)" in page and "Everything took 5 min 0 s" in page


def test_where_all_is_as_published_the_page_says_so(
    published: DomainResult, tmp_path: Path
) -> None:
    cfg = CFG.model_copy(update={"held_out_domains": (), "domains": {"a": {}}})
    found = DomainDataResults(cfg, {"a": published.row}, {"all": overall_of(cfg, [published])})
    text = write_page(found, tmp_path, "x").read_text()
    assert "The data agree with the papers in every claim, and no domain contradicts one." in text
    assert "held out" not in text and "on 1 domain, with 2 seeds" in text


def test_unequal_tokens_are_told(page: str) -> None:
    first, last = page.split("\n## b\n")
    assert "own up to 10.0% more than others" in last and "more than others" not in first


@pytest.fixture
def loaded(tmp_path: Path) -> Any:
    """The study of a file, with some keys changed."""
    path = write_domain_study(tmp_path, workers=1) / "texts.yaml"
    whole = yaml.safe_load(path.read_text())

    def load(**changes: Any) -> Any:
        data = {**whole, **{k: v for k, v in changes.items() if k != "run"}}
        data["run"] = {**whole["run"], **changes.get("run", {})}
        path.write_text(yaml.safe_dump(data))
        return load_study(DomainDataStudy, path)

    return load


def test_what_a_run_must_have_and_the_study_does_not_read_is_filled_in(loaded: Any) -> None:
    study, runs = loaded()
    assert runs["tiny"].distill.mix == {"findings": 1}
    assert runs["tiny"].probe.mix == {"organ.labelled": 1}
    assert require(study, runs) is None
    assert DomainDataStudy.model_validate(study.model_dump(mode="json")) == study


def recipes(**changes: Any) -> dict[str, Any]:
    from tiny_run import training

    made = {
        "reads": training(mix={"talk": 1}),
        "reads-findings": training(mix={"findings": 4, "talk": 1}),
        "fine-tune": training(mix={"organ.labelled": 1}),
    }
    return {"adapt": {"recipes": {**made, **changes}}}


def arms(**mixes: Any) -> list[dict[str, Any]]:
    return [{"name": name, "mix": mix} for name, mix in mixes.items()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"arms": arms(talk={"talk": 1}, task={"organ.labelled": 1})},
            "tiny: arms.task: no text 'organ.labelled'. Allowed: findings, talk. Arms distil",
        ),
        ({"fine_tune": "finetune"}, "tiny: fine_tune: no recipe 'finetune'. Did you mean 'fine"),
        ({"raw": "row"}, "tiny: teachers: no teacher 'row'. Did you mean 'raw'?"),
        (
            {"raw": "adapted", "adapted": "raw"},
            "tiny: teachers: raw isn't adapted after further recipes. Give it the same model",
        ),
        (
            {
                "run": recipes(
                    reads={"token_budget": 20480, "global_batch_size": 8, "mix": {"findings": 1}}
                )
            },
            "tiny: teachers: raw has read findings, so it isn't raw. Take it out of reads.",
        ),
        (
            {
                "run": recipes(
                    **{
                        "reads-findings": {
                            "token_budget": 20480,
                            "mix": {"findings": 1, "organ.labelled": 1},
                        }
                    }
                )
            },
            "tiny: adapt.recipes.reads-findings.mix: reads organ.labelled: its labels would reach",
        ),
    ],
)
def test_arms_may_differ_in_text_and_teacher_alone(
    loaded: Any, changes: dict[str, Any], message: str
) -> None:
    study, runs = loaded(**changes)
    with pytest.raises(InputError) as caught:
        require(study, runs)
    assert any(str(problem).startswith(message) for problem in caught.value.problems)


def test_arms_of_one_name_are_refused(loaded: Any) -> None:
    with pytest.raises(InputError, match="arms: names must differ, got"):
        loaded(arms=[*arms(a={"talk": 1}), *arms(a={"findings": 1})])
