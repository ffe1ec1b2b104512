"""The arithmetic of a report, on given seconds."""

import json
import math
from dataclasses import replace

import pytest

from distill_ray.bench.harness.flops import Decoder, distillation_step
from distill_ray.bench.harness.result import ArmResult, Comparison, Report, Target, Unit
from distill_ray.bench.harness.table import columns, markdown, remarks, row, tables, utilisation


def arm(name, seconds, *, peak=None, losses=None, amount=1.0, **more):
    """An arm with one warm-up unit before these."""
    losses = losses or [1.0] * (len(seconds) + 1)
    units = [
        Unit(i, s, s, (loss,), amount, peak)
        for i, (s, loss) in enumerate(zip([9, *seconds], losses))
    ]
    return ArmResult(name, tuple(units), warmup=1, device="cpu", threads=2, **more)


@pytest.fixture
def found():
    return Comparison(
        "title",
        (
            arm("plain", [1.0, 2.0, 4.0], peak=100),
            arm("ours", [1.5, 2.0, 2.0], peak=25, losses=[1.0, 1.0, 1.0, 1.01]),
        ),
        reference="plain",
    )


def test_ratios_are_taken_within_a_round(found):
    assert found.ratios("ours") == (1.5, 1.0, 0.5)
    assert found.ratio("ours") == 1.0
    assert found.ratios("plain", to="ours") == (1 / 1.5, 1.0, 2.0)


def test_memory_is_held_against_the_reference(found):
    assert found.memory_ratio("ours") == 0.25
    assert found.memory_ratio("plain", to="ours") == 4.0


def test_work_that_differs_in_amount_is_compared_per_amount():
    both = Comparison("title", (arm("padded", [1.0]), arm("packed", [2.0], amount=4.0)), "padded")
    assert both.ratio("packed") == 0.5


def test_costs_may_be_counted_in_something_else_and_more_be_told_of_measured_units():
    units = [Unit(i, 3.0, 1.0, (1.0,), 2.0, figures={"beside": 1.0 + i}) for i in range(3)]
    one = ArmResult("one", tuple(units), warmup=1, device="cpu")
    found = Comparison("title", (one, arm("two", [1.0])), "one", unit="steps")
    assert columns(found)[:3] == ["arm", "steps", "from - to"]
    assert found.arm("one").cost == 1.5
    assert found.arm("one").figures("beside") == (2.0, 3.0)
    assert found.arm("two").figures("beside") == ()
    rows = found.to_dict()["arms"]
    assert [row.get("figures") for row in rows] == [[{"beside": 2.0}, {"beside": 3.0}], None]


def test_unlike_numbers_of_losses_are_not_the_same_work():
    one = ArmResult("one", (Unit(0, 1.0, 1.0, (1.0,)),), warmup=0)
    two = ArmResult("two", (Unit(0, 1.0, 1.0, (1.0, 2.0)),), warmup=0)
    assert Comparison("title", (two, one), "two").same_work is False


def test_a_lone_arm_has_nothing_to_differ_from():
    assert Comparison("title", (arm("plain", [1.0]),), "plain").same_work is None


@pytest.mark.parametrize(
    ("value", "at_most", "met"),
    [
        (1.0, True, True),
        (1.1, True, False),
        (1.1, False, True),
        (0.9, False, False),
        (None, True, None),
    ],
)
def test_a_target_is_met_on_its_side_of_the_bound(value, at_most, met):
    assert Target("what", value, 1.0, at_most).met is met


def report(found):
    environment = {
        "machine": {"cpu": "a cpu", "cores": 2, "memory_bytes": 2**34},
        "versions": {"torch": "2"},
        "command": "distill-ray bench step",
    }
    return Report("step", (found,), (Target("time", 1.0, 1.03),), environment=environment)


def test_the_report_is_json_with_every_pair(found):
    plain = json.loads(json.dumps(report(found).to_dict()))
    ours = plain["comparisons"][0]["arms"][1]
    assert ours["ratios"] == [1.5, 1.0, 0.5]
    assert ours["memory_ratio"] == 0.25
    assert ours["losses"][3] == [1.01]
    assert ours["loss_difference"] == pytest.approx(0.01)
    assert plain["comparisons"][0]["same_work"] is False
    assert plain["targets"][0]["met"] is True


def test_a_number_that_json_has_not_got_is_text():
    bad = Comparison("title", (arm("a", [1.0]), arm("b", [1.0], losses=[1.0, math.nan])), "a")
    plain = json.loads(json.dumps(report(bad).to_dict(), allow_nan=False))
    assert plain["comparisons"][0]["arms"][1]["losses"] == [[1.0], ["nan"]]


def test_the_table_shows_medians_and_says_that_the_work_is_unlike(found):
    made = report(found)
    assert row(found, found.arm("ours"))[:4] == ["ours", "2", "1.5 - 2", "1.000"]
    assert len(list(tables(made))) == 2
    assert any("not the same work" in line for line in remarks(made))
    text = markdown(made)
    assert "| ours | 2 | 1.5 - 2 | 1.000 |" in text
    assert "`distill-ray bench step` on a cpu, 2 cores, 16 GiB; torch 2." in text


def test_utilisation_is_model_flops_against_the_peak_of_the_device():
    one = Unit(0, 2.0, 2.0, (1.0,))
    made = ArmResult("ours", (one,), 0, device="NVIDIA H100 80GB", facts={"step_flops": 989e12})
    assert "model FLOP utilisation 50.0% of 989 TFLOP/s" in utilisation(made)
    assert utilisation(replace(made, device="cpu")) == ""


def test_flops_count_matrix_products_and_half_of_the_attention():
    decoder = Decoder(weights=1000, layers=2, attention=8)
    # A token: 2 x 1000 for the weights, 4 x 2 x 8 x 16 / 2 for scores and values.
    assert decoder.forward(rows=3, length=16) == 3 * 16 * (2000 + 512)
    assert distillation_step(decoder, decoder, 3, 16) == 4 * decoder.forward(3, 16)
