"""What replaces gloo's collectives gives what gloo gives."""

import pytest
from gloo_ranks import gathered, scattered, together

pytestmark = pytest.mark.heavy


def test_parts_of_all_ranks_are_gathered_as_torch_does(tmp_path):
    _assert_equal(together(3, tmp_path / "meet", gathered), cases=6)


@pytest.mark.parametrize("piece", [2, 5, 100])
def test_sums_are_scattered_as_torch_does_whatever_is_sent_at_a_time(tmp_path, piece):
    _assert_equal(together(3, tmp_path / "meet", scattered, piece), cases=8)


def _assert_equal(ranks, cases):
    # All ranks; the last two have a group of their own besides.
    assert [len(found) for found in ranks] == [cases, 2 * cases, 2 * cases]
    for found in ranks:
        for case, (made, expected) in found.items():
            assert made == expected, case
