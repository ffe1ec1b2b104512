"""A schedule of a user's own, which knows early what comes next."""

from distill_ray.core.schedule import Choice


def in_turn(state, seen, checkpoints, *, every: int):
    """The checkpoints in turn, each for so many steps; the next is announced all the while."""
    count = checkpoints.num_checkpoints[state.teacher]
    checkpoint_index = seen.step // every % count
    following = (state.teacher, (checkpoint_index + 1) % count)
    return Choice(state.teacher, checkpoint_index, "its turn has come", upcoming=following)
