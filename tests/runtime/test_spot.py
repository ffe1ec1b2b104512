"""Spot notices, from services that answer as the clouds' do."""

from __future__ import annotations

import json
import threading
import time
from datetime import datetime, timedelta, timezone

import pytest
from cloud_metadata import ComputeEngine, Ec2, served

from distill_ray.runtime.spot import AwsMetadata, GcpMetadata, Notice, watch


def instance_action(seconds: float) -> str:
    at = datetime.now(timezone.utc) + timedelta(seconds=seconds)
    return json.dumps({"action": "terminate", "time": at.strftime("%Y-%m-%dT%H:%M:%SZ")})


def test_ec2_has_no_notice_until_it_has_one() -> None:
    with served(Ec2) as service:
        metadata = AwsMetadata(service.url)
        assert metadata.poll() is None
        service.give(instance_action(120))
        notice = metadata.poll()
        assert notice is not None and 117 <= notice.seconds_left <= 120
        assert notice.what.startswith("terminate at 20")
        assert len(service.tokens) == 1, "a token serves for many questions"


def test_an_expired_token_of_ec2_is_replaced() -> None:
    with served(Ec2) as service:
        metadata = AwsMetadata(service.url)
        assert metadata.poll() is None
        service.tokens.append("of somebody else, so that ours has expired")
        assert metadata.poll() is None
        assert len(service.tokens) == 3


def test_a_notice_whose_time_has_passed_leaves_no_second() -> None:
    with served(Ec2) as service:
        service.give(instance_action(-10))
        notice = AwsMetadata(service.url).poll()
    assert notice is not None and notice.seconds_left == 0


def test_compute_engine_answers_the_moment_the_notice_comes() -> None:
    with served(ComputeEngine) as service:
        metadata = GcpMetadata(service.url)
        assert metadata.poll() is None, "the first question is answered at once"
        threading.Timer(0.2, service.give, ["TRUE"]).start()
        started = time.monotonic()
        assert metadata.poll() == Notice("preempted", 30)
        assert 0.1 < time.monotonic() - started < 5.0
        assert service.asked == 2


def test_a_notice_from_before_the_watch_counts() -> None:
    with served(ComputeEngine) as service:
        service.give("TRUE")
        assert GcpMetadata(service.url).poll() == Notice("preempted", 30)


@pytest.mark.parametrize("garbage", ["<html>", "{}", '{"action": "stop", "time": "soon"}'])
def test_an_answer_that_cannot_be_read_does_not_end_the_watch(
    monkeypatch: pytest.MonkeyPatch, garbage: str
) -> None:
    monkeypatch.setattr("distill_ray.runtime.spot.RETRY_S", 0.02)
    drained: list[Notice] = []
    with served(Ec2) as service:
        service.give(garbage)
        threading.Timer(0.1, service.give, [instance_action(60)]).start()
        metadata = AwsMetadata(service.url)
        metadata.interval_s = 0.02
        watch(metadata, drained.append, lambda text: None)
    assert len(drained) == 1 and drained[0].what.startswith("terminate")


def test_a_silent_service_is_asked_on_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill_ray.runtime.spot.RETRY_S", 0.02)
    said: list[str] = []
    drained: list[Notice] = []
    with served(Ec2) as service:
        service.down = True
        metadata = AwsMetadata(service.url)
        metadata.interval_s = 0.02
        thread = threading.Thread(target=watch, args=(metadata, drained.append, said.append))
        thread.start()
        until = time.monotonic() + 10
        while service.asked < 4 and time.monotonic() < until:
            time.sleep(0.01)
        service.give(instance_action(60))
        service.down = False
        thread.join(timeout=10)
        assert not thread.is_alive()
    assert [notice.what.split()[0] for notice in drained] == ["terminate"]
    assert ["no answer" in line for line in said] == [True, False, False]
    assert not any(token in " ".join(said) for token in service.tokens)


def test_a_proxy_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with served(Ec2) as service:
        assert AwsMetadata(service.url).poll() is None
