"""Numbers may be written `2M`, `1e5`, `64k`; text never becomes a number."""

import random
import typing
from decimal import Decimal
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from distill_ray.config import InputError, RunConfig, document, load_config
from distill_ray.config.load import load_study
from distill_ray.config.numbers import (
    PATTERN,
    REAL,
    SUFFIXES,
    WHOLE,
    Float,
    FreeMapping,
    Int,
    with_text,
)
from distill_ray.config.study import STUDIES

WHOLE_NUMBER, REAL_NUMBER = TypeAdapter(Int), TypeAdapter(Float)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2M", 2_000_000), ("1e5", 100_000), ("64k", 64_000), ("64Ki", 65_536), ("1.5k", 1500),
        ("1_000_000", 1_000_000), ("3G", 3 * 10**9), ("1Mi", 2**20), ("2Gi", 2**31), ("-4k", -4000),
        ("1.0e5", 100_000), ("1E3", 1000), ("0", 0), ("0k", 0), (".5k", 500), ("1e3k", 1_000_000),
        ("9007199254740993k", 9007199254740993000), ("2 M", 2_000_000), ("+3", 3), ("10e-1", 1),
    ],
)  # fmt: skip
def test_a_whole_number_is_exact(text, number):
    found = WHOLE_NUMBER.validate_python(document.parse(f"a: {text}")["a"])
    assert found == number and type(found) is int
    assert REAL_NUMBER.validate_python(document.parse(f"a: {text}")["a"]) == float(number)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.0005k", "1.0005k is 1000.5, which isn't a whole number"),
        ("1e-4", "1e-4 is 0.0001, which isn't a whole number"),
        ("64K", "the suffix of 64K is unknown. Use k (1,000), M, G, Ki (1,024), Mi or Gi"),
        ("5m", "the suffix of 5m is unknown"),
        ("7B", "the suffix of 7B is unknown"),
        ("1e999999999", "1e999999999 is too large"),
        ("1e40", "1e40 has more than 30 digits"),
        ("two", "unable to parse string as an integer"),
        ("1 000", "unable to parse string as an integer"),
        ("0x10k", "unable to parse string as an integer"),
    ],
)
def test_what_is_no_whole_number_is_refused_with_the_reason(text, message):
    with pytest.raises(ValidationError) as caught:
        WHOLE_NUMBER.validate_python(text)
    assert message in str(caught.value)


def test_any_number_with_any_suffix_is_the_product():
    draw = random.Random(0)
    for _ in range(3000):
        digits = f"{draw.randint(0, 10 ** draw.randint(1, 9)):_}"
        if draw.random() < 0.5:
            digits += f".{draw.randint(0, 999)}"
        if draw.random() < 0.3:
            digits += f"e{draw.randint(-3, 6)}"
        suffix = draw.choice(["", *SUFFIXES])
        value = document.parse(f"a: {digits}{suffix}")["a"]
        exact = Decimal(digits.replace("_", "")) * SUFFIXES.get(suffix, 1)
        assert REAL_NUMBER.validate_python(value) == pytest.approx(float(exact), rel=1e-15)
        if exact == exact.to_integral_value():
            assert WHOLE_NUMBER.validate_python(value) == int(exact)
        elif isinstance(value, str):
            with pytest.raises(ValidationError):
                WHOLE_NUMBER.validate_python(value)


def test_numbers_may_be_so_written_all_over_a_run(editor):
    text = """
    probe.token_budget=2M, probe.learning_rate=1e-4, probe.mix={notes: 7e0, triage.labelled: 3}
    distill.eval_steps=1k, distill.reassess={at_progress: [5e-1]}, audit.max_actors=1e1
    student.tokenizer.train.vocab_size=64Ki, corpora.sequence_length=1Ki, cluster.save_interval_s=1k
    rank.num_draws=1_000k, distill.lora={rank: 1e1, alpha: 3e1}, probe.seeds=[0, 1e0, 2]
    """
    cfg = editor.load(overrides=[flag.strip() for flag in _flags(text)])
    assert (cfg.probe.token_budget, cfg.probe.learning_rate) == (2_000_000, 1e-4)
    assert cfg.probe.mix == {"notes": 7.0, "triage.labelled": 3.0}
    assert (cfg.distill.eval_steps, cfg.audit.max_actors) == (1000, 10)
    assert cfg.distill.reassess.at_progress == (0.5,)
    assert cfg.student.tokenizer.train.vocab_size == 65_536
    assert (cfg.corpora.sequence_length, cfg.cluster.save_interval_s) == (1024, 1000.0)
    assert (cfg.rank.num_draws, cfg.distill.lora.rank, cfg.probe.seeds) == (
        1_000_000,
        10,
        (0, 1, 2),
    )


def _flags(text):
    for line in text.strip().splitlines():
        depth, start = 0, 0
        for i, character in enumerate(line):
            depth += (character in "[{") - (character in "]}")
            if character == "," and not depth:
                yield line[start:i]
                start = i + 1
        yield line[start:]


def test_bounds_hold_for_numbers_that_are_written_so(editor):
    (problem,) = editor.problems(overrides=["probe.token_budget=-1k"])
    assert problem.startswith("probe.token_budget: Input should be greater than 0")
    (problem,) = editor.problems(overrides=["distill.mix.notes=1K"])
    assert problem.startswith("distill.mix.notes: the suffix of 1K is unknown")
    (problem,) = editor.problems(overrides=["probe.learning_rate=.inf"])
    assert problem.startswith("probe.learning_rate: Input should be a finite number")
    (problem,) = editor.problems(overrides=["probe.learning_rate=1e999"])
    assert problem.startswith("probe.learning_rate: 1e999 is too large")


def test_text_stays_text(tmp_path, editor):
    editor.load()
    text = editor.path.read_text() + "report: {title: 1e5}\n"
    editor.path.write_text(text)
    flags = ["tasks.triage.answers={1e5: 64k, '2M': 3e4}", "tasks.triage.labels=[1e5, 2M]"]
    flags += ["corpora.sources.notes.source.text_column=1e5", "cluster.job.pip=[1e5]"]
    cfg = load_config(editor.path, flags)
    task = cfg.tasks[0]
    assert task.answers == {"1e5": "64k", "2M": "3e4"} and task.labels == ("1e5", "2M")
    words = [cfg.report.title, *task.answers, *task.answers.values(), *cfg.cluster.job.pip]
    assert all(type(word) is str for word in words), "and is nothing but text"
    yaml.safe_dump(cfg.model_dump(mode="json"))


def test_another_library_s_options_follow_yaml_1_2():
    """`rope_theta: 1e6` is a number to whoever writes a Hugging Face config; quotes make text."""
    options = document.parse("{a: 1e6, b: '1e6', c: \"1e6\", d: 10M, e: [1E-5, x], f: {g: 1.0e+2}}")
    found = TypeAdapter(FreeMapping).validate_python(options)
    assert found == {
        "a": 1e6, "b": "1e6", "c": "1e6", "d": "10M", "e": [1e-5, "x"], "f": {"g": 100.0},
    }  # fmt: skip
    assert type(found["d"]) is str


def test_a_leading_zero_makes_no_octal_number_and_a_colon_no_minutes(editor):
    flags = ["probe.token_budget=0200000", "corpora.split_seed=-010"]
    cfg = editor.load(overrides=flags)
    assert (cfg.probe.token_budget, cfg.corpora.split_seed) == (200_000, -10)
    cfg = editor.load(overrides=["tasks.triage.labels=[0123, 12:30, 08]"])
    assert cfg.tasks[0].labels == ("0123", "12:30", "08")
    (problem,) = editor.problems(overrides=["probe.token_budget=1:30"])
    assert problem.startswith("probe.token_budget: Input should be a valid integer")
    found = TypeAdapter(FreeMapping).validate_python(
        document.parse("{a: 0123, b: 12:30, c: 0x10, d: 123e456}")
    )
    assert found == {"a": 123, "b": "12:30", "c": 16, "d": "123e456"}
    assert type(found["a"]) is int


def test_init_and_options_take_exponents(editor):
    cfg = editor.load(
        overrides=["student.model.init.rope_theta=1e6", "student.model.init.hidden_act='1e6'"]
    )
    assert cfg.student.model.init["rope_theta"] == 1e6
    assert cfg.student.model.init["hidden_act"] == "1e6"


def sections(model, known):
    """Every section that a config has."""
    if model in known:
        return known
    known.add(model)
    for field in model.model_fields.values():
        for part in parts(field.rebuild_annotation()):
            if isinstance(part, type) and issubclass(part, BaseModel):
                sections(part, known)
    return known


def parts(annotation):
    yield annotation
    for argument in typing.get_args(annotation):
        yield from parts(argument)


def bare(annotation, readers=()):
    """The number types in an annotation that take no text."""
    if annotation in (int, float):
        return [] if (WHOLE if annotation is int else REAL) in readers else [annotation]
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Annotated:
        return bare(arguments[0], (*readers, *arguments[1:]))
    if typing.get_origin(annotation) is typing.Literal:
        return []
    return [number for argument in arguments for number in bare(argument)]


def test_no_number_field_is_left_out():
    known = set()
    for root in (RunConfig, *STUDIES.values()):
        sections(root, known)
    assert len(known) > 40
    for section in known:
        for name, field in section.model_fields.items():
            assert not bare(field.rebuild_annotation()), f"{section.__name__}.{name}"


def test_the_printed_schema_lets_an_editor_accept_such_numbers():
    schema = with_text(RunConfig.model_json_schema())
    training = {**schema, **schema["$defs"]["ProbeConfig"]}
    for value in (5, "2M", "1e5", "64Ki"):
        jsonschema.validate({"token_budget": value, "mix": {"a": "1k"}}, training)
    for value in ("2X", "much", [1]):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"token_budget": value, "mix": {"a": 1}}, training)
    assert (
        PATTERN
        in schema["$defs"]["ProbeConfig"]["properties"]["token_budget"]["anyOf"][1]["pattern"]
    )


def test_a_number_in_a_study_s_run_is_read_like_one_in_a_run(tmp_path):
    file = Path(__file__).parents[2] / "configs" / "studies" / "ranking.yaml"
    study, runs = load_study(
        STUDIES["ranking"], file, ["run.distill.token_budget=2M", "num_bootstrap=1k"]
    )
    assert study.num_bootstrap == 1000
    assert all(cfg.distill.token_budget == 2_000_000 for cfg in runs.values())


def test_unreadable_numbers_are_told_with_everything_else(editor):
    with pytest.raises(InputError) as caught:
        editor.load(overrides=["probe.token_budget=1.0005k", "audit.num_bins=5K", "sed=1"])
    assert len(caught.value.problems) == 3
