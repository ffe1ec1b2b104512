"""Real signals, some of which Python itself drops."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tiny_run import config

from distill_ray.config import RunConfig
from distill_ray.runtime.run import Run
from distill_ray.runtime.signals import deferred_interrupts, interruptible, raise_if_interrupted
from distill_ray.stages import pipeline

STEPS: list[Callable[[Run], None]] = [
    lambda run: run.raise_if_interrupted(),
    lambda run: run.stage("audit").__enter__(),
]
REPORTS: list[Callable[[Run], None]] = [
    lambda run: run.note("audit", "scored wide"),
    lambda run: run.reused("audit"),
]


class Destroyed:
    """A signal comes while its destructor runs, as where a garbage collection runs."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


class Broken:
    """Its destructor fails."""

    def __del__(self) -> None:
        raise ZeroDivisionError


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.open(RunConfig.model_validate(config(tmp_path)), "tiny.yaml")


def swallowed() -> None:
    """As code written in C does that clears whatever it meets."""
    with suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("step", STEPS)
def test_an_interruption_that_was_swallowed_ends_the_run_at_its_next_step(
    run: Run, step: Callable[[Run], None]
) -> None:
    with interruptible():
        step(run)
        swallowed()
        with pytest.raises(KeyboardInterrupt):
            step(run)
    step(run)


@pytest.mark.parametrize("report", REPORTS)
def test_a_progress_report_raises_nothing_and_loses_no_interruption(
    run: Run, report: Callable[[Run], None]
) -> None:
    with interruptible():
        swallowed()
        report(run)
        with pytest.raises(KeyboardInterrupt):
            run.raise_if_interrupted()


def test_a_route_ends_behind_the_stage_that_lost_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stages(run: Run) -> Iterator[str]:
        run.reused("shard")
        swallowed()
        yield "shards"
        pytest.fail("the next stage began")

    monkeypatch.setattr(pipeline, "pipeline", stages)
    with interruptible(), pytest.raises(KeyboardInterrupt):
        pipeline.run_until(run, "adapt")


def test_a_stage_that_lost_one_does_not_finish(run: Run) -> None:
    with interruptible(), pytest.raises(KeyboardInterrupt), run.stage("audit"):
        swallowed()


def test_one_that_a_destructor_drops_comes_again_also_where_nothing_is_said() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        made = Destroyed()
        del made
        threading.Event().wait(30)
        pytest.fail("it never came")


def test_what_else_a_destructor_drops_is_told_as_before() -> None:
    told: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", lambda dropped: told.append(dropped.exc_type))
        with interruptible():
            made = Broken()
            del made
        assert told == [ZeroDivisionError]


def test_what_must_not_be_half_done_is_done_first() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interruptible(), deferred_interrupts():
        signal.raise_signal(signal.SIGINT)
        done.append("all of it")
    assert done


def test_who_cannot_wait_for_it_asks_twice() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible(), deferred_interrupts():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it waited")


def test_one_that_is_raised_leaves_python_as_it_was() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    raise_if_interrupted()


def test_a_process_that_ignores_it_goes_on_ignoring_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # As in the background of a shell.
    try:
        with interruptible():
            signal.raise_signal(signal.SIGINT)
            raise_if_interrupted()
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_are_left_alone() -> None:
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with interruptible():
                raise_if_interrupted()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed
