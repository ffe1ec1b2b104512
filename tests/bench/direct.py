"""An arm's function in this process: turns that nobody else waits for."""

import torch


class Turns:
    """As the harness's, without a pipe and without a clock."""

    device = torch.device("cpu")
    rank, ranks, rendezvous = 0, 1, ""

    def __init__(self, units):
        self.total, self.losses, self.facts = units, [], {}
        self.figures, self.seconds, self.amounts = [], [], []

    def __iter__(self):
        while self.wait():
            yield len(self.losses)

    def tell(self, **facts):
        self.facts |= facts

    def wait(self):
        return len(self.losses) < self.total

    def stop_clock(self):
        pass

    def done(self, losses, amount=1.0, *, seconds=None, figures=None):
        self.losses.append(tuple(losses))
        self.amounts.append(amount)
        self.seconds.append(seconds)
        self.figures.append(figures)


def run(function, *, units, **options):
    """The turns after `units` units of an arm."""
    turns = Turns(units)
    function(turns, **options)
    return turns
