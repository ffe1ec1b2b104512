"""The harness, with arms that do next to nothing. Processes are slow to start: most share a run."""

import sys

import pytest

from distill_ray.bench.harness.compare import compare, order
from distill_ray.bench.harness.plan import Arm, Plan

# Each starts processes that import torch.
pytestmark = pytest.mark.heavy

MIB = 2**20


def fake(name, run, *, ranks=1, threads=1, **options):
    """An arm of `fake_arms` by name."""
    return Arm(name, f"bench.fake_arms:{run}", options, threads=threads, ranks=ranks)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("turns") / "log"


@pytest.fixture(scope="module")
def found(log):
    """One comparison of everything that can go right or wrong, one warm-up round and two pairs."""
    arms = [
        fake("right", "telling", losses=[1.0, 4.0, 2.0], path=("A", str(log))),
        fake("same", "telling", losses=[1.0, 4.0, 2.0], path=("B", str(log)), threads=2),
        fake("wrong", "telling", losses=[1.0, 4.5, 2.0]),
        fake("nan", "telling", losses=[float("nan")]),
        fake("holding", "holding", size=200 * MIB),
        fake("raising", "raising", at=1),
        fake("killed", "dying", at=1, code=9),
        fake("ending", "dying", at=1, code=3),
        fake("missing", "missing"),
        fake("two", "together", ranks=2),
    ]
    return compare("test", arms, Plan(pairs=2, warmup=1, timeout_s=250.0))


def test_the_order_is_turned_around_from_round_to_round():
    assert [order(3, number) for number in range(3)] == [[0, 1, 2], [2, 1, 0], [0, 1, 2]]


def test_arms_work_in_turns_and_the_warm_up_does_not_count(found, log):
    assert log.read_text().split() == ["A0", "B0", "B1", "A1", "A2", "B2"]
    for name in ("right", "same"):
        arm = found.arm(name)
        assert arm.error is None
        assert [unit.losses for unit in arm.units] == [(1.0,), (4.0,), (2.0,)]
        assert len(arm.costs) == 2


def test_every_arm_has_the_threads_that_it_was_given(found):
    assert [found.arm(name).facts["threads"] for name in ("right", "same")] == [1, 2]


def test_a_planted_difference_is_found_in_the_unit_where_it_is(found):
    assert found.difference("same").absolute == 0.0
    difference = found.difference("wrong")
    assert (difference.absolute, difference.relative) == (0.5, 0.125)
    assert found.same_work is False


def test_a_loss_that_is_not_a_number_is_as_far_apart_as_can_be(found):
    assert found.difference("nan").relative == float("inf")


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_memory_counts_above_what_was_there_before_the_first_unit(found):
    # It holds 200 MiB from the beginning, and as much again during its second unit.
    first, second, _ = (unit.peak_bytes / MIB for unit in found.arm("holding").units)
    assert first < 20
    assert 195 < second < 220
    assert found.arm("holding").peak_bytes == second * MIB


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raising", "ValueError: no unit 1"),
        ("killed", "killed by the system, most likely out of memory"),
        ("ending", "ended with exit code 3:\nlast words"),
    ],
)
def test_an_arm_that_ends_early_is_reported_and_the_others_go_on(found, name, said):
    arm = found.arm(name)
    assert (arm.error, len(arm.units)) == (said, 1)
    assert found.ratio(name) is None
    assert found.arm("two").error is None


def test_an_arm_that_can_not_be_built_is_reported(found):
    assert "has no 'missing'" in found.arm("missing").error
    assert found.to_dict()["arms"][8]["median_s"] is None


def test_processes_of_one_arm_work_together_and_rank_0_tells_the_loss(found):
    assert [unit.losses for unit in found.arm("two").units] == [(2.0,)] * 3


def test_an_arm_that_is_stuck_is_given_up():
    found = compare("test", [fake("stuck", "stuck")], Plan(pairs=1, warmup=0, timeout_s=5.0))
    assert found.arms[0].error == "no answer for 5 s"
