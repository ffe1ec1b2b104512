"""Which steps are announced to a teacher that works ahead, and when."""

from dataclasses import replace

import pytest

from distill_ray.engine.teachers.base import Colocated


class Announced(Colocated):
    """A teacher that works some steps ahead, and notes what is announced to it."""

    def __init__(self, bank, lookahead):
        super().__init__(bank)
        self.lookahead = lookahead
        self.rows = []

    def announce(self, batches):
        self.rows.append([row_id for batch in batches for row_id in batch.row_ids])


@pytest.fixture
def session_with(builder, two_checkpoints):
    def session(lookahead, steps):
        new_session = builder.session(steps=steps, teaching=two_checkpoints, micro_batch_size=4)
        source = Announced(new_session.teaching.source._bank, lookahead)
        new_session.teaching = replace(new_session.teaching, source=source)
        return new_session, source

    return session


def rows_of(session, step):
    return [i for m in range(session.num_micro) for i in session.source.batch(step, m).row_ids]


@pytest.mark.parametrize(
    ("lookahead", "expected"),
    [(0, [1, 2, 3, 4, 5]), (2, [3, 4, 5, 5, 5]), (9, [5, 5, 5, 5, 5])],
)
def test_the_steps_ahead_are_announced_once_each_and_none_past_the_last(
    session_with, lookahead, expected
):
    session, source = session_with(lookahead, steps=5)
    by_step = [rows_of(session, step) for step in range(5)]
    announced = []
    for step in range(5):
        batches = session.batches()
        assert [i for batch in batches for i in batch.row_ids] == by_step[step]
        announced.append(len(source.rows))
        session.step += 1
    assert announced == expected
    assert source.rows == by_step
    assert session.loaded == {}
