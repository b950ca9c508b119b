"""When the preStop hook of an engine is answered: by a clock of our own, and over the exporter's real port."""

import threading
import time
import urllib.request
from dataclasses import replace

import pytest

from llmservice_core import contract
from llmservice_serving import engine_exporter, engine_leave
from llmservice_serving.engine_leave import POLL_S, QUIET_S, until_idle
from llmservice_serving.engine_numbers import EngineNumbers, Limits, Live

IDLE = Live(waiting=0, prefills=0, decodes=0, hidden=0, unpulled_blocks=0, kv_usage=0.0)
LIMITS = Limits(kv_tokens=1, max_batched_tokens=1, max_seqs=1, tile_tokens=1, bin_tokens=1)


class Time:
    """A clock that only sleeping moves."""

    now_s = 0.0

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def waited(busy: Live, busy_s: float, within_s: float) -> tuple[bool, float]:
    """Whether nothing was left, and after how long, for an engine that is busy so long."""
    time_ = Time()
    done = until_idle(
        lambda: busy if time_.now_s < busy_s else IDLE, lambda: 0, within_s, lambda: time_.now_s, time_.sleep
    )
    return done, time_.now_s


@pytest.mark.parametrize("what", ["waiting", "prefills", "decodes", "unpulled_blocks"])
def test_whatever_is_left_is_waited_for(what: str) -> None:
    done, after_s = waited(replace(IDLE, **{what: 1}), busy_s=40.0, within_s=60.0)
    assert (done, after_s) == (True, pytest.approx(40.0 + QUIET_S, abs=2 * POLL_S))


def test_an_idle_engine_waits_until_routers_have_stopped_sending() -> None:
    assert waited(IDLE, 0.0, within_s=60.0) == (True, pytest.approx(QUIET_S, abs=POLL_S))


def test_the_only_engine_of_a_pool_stays_while_requests_still_come() -> None:
    """One every two seconds, each over between two looks; the last after 30 s, when a successor was there."""
    time_ = Time()
    done = until_idle(lambda: IDLE, lambda: min(15, time_.now_s // 2), 60.0, lambda: time_.now_s, time_.sleep)
    assert (done, time_.now_s) == (True, pytest.approx(30.0 + QUIET_S, abs=2 * POLL_S))


def test_the_time_ends() -> None:
    assert waited(replace(IDLE, decodes=1), busy_s=1e9, within_s=60.0) == (False, pytest.approx(60.0, abs=POLL_S))


def test_no_time_at_all() -> None:
    assert waited(replace(IDLE, decodes=1), busy_s=1e9, within_s=0.0) == (False, 0.0)


def test_over_the_exporters_port_beside_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scrapes are answered while a hook waits."""
    monkeypatch.setenv(contract.ENV_METRICS_PORT, "0")
    monkeypatch.setenv(contract.ENV_METRICS_HOST, "127.0.0.1")
    monkeypatch.setattr(engine_leave, "QUIET_S", 0.0)
    made = {}
    real = engine_exporter.make_server

    def make(*arguments: object) -> object:
        made["server"] = real(*arguments)  # type: ignore[arg-type]
        return made["server"]

    monkeypatch.setattr(engine_exporter, "make_server", make)
    live = [replace(IDLE, decodes=1)]
    engine_exporter.start(EngineNumbers(LIMITS, lambda: live[0]), dict)
    root = f"http://127.0.0.1:{made['server'].server_port}"
    answers: list[bytes] = []
    hook = threading.Thread(target=lambda: answers.append(_get(f"{root}{contract.PATH_LEAVE}?within=30")))
    hook.start()
    time.sleep(0.1)
    assert b"llmservice_engine_running" in _get(f"{root}/metrics")
    assert answers == []
    live[0] = IDLE
    hook.join(5)
    assert answers == [b"nothing is left\n"]
    made["server"].shutdown()


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as reply:
        body: bytes = reply.read()
        return body
