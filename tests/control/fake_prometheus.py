"""A server that answers as Prometheus does, with the recorded samples of test_observe moved to now and scaled.

It is no oracle for PromQL: the real Prometheus is asked in tests with marker `prometheus`.
"""

import copy
import json
import math
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from llmservice_core import metric_names as names

RECORDED = json.loads((Path(__file__).parent / "data" / "prometheus_range.json").read_text())["data"]["result"]
NEWEST_S = max(sample[0] for series in RECORDED for sample in series["values"])
TRAFFIC = (names.ARRIVALS, names.PROMPT_TOKENS, names.PROMPTS, names.CACHED_TOKENS, names.OUTPUT_TOKENS, names.ANSWERS)


COUNTED = (names.RUNNING, names.WAITING)
IDLE_ENGINES = 8
"""Of each pool, beside the one that was recorded: every engine that serves is scraped, however many a test starts."""


def idle_engines() -> list[dict[str, Any]]:
    """They report their limits, and that nothing runs or waits; they have made no step."""
    decode = [s for s in RECORDED if s["metric"].get(names.POOL) == "decode"]
    gauges = [s for s in decode if not {names.KIND, names.CLASS} & s["metric"].keys()]
    return [
        {
            "metric": {**s["metric"], names.POOL: pool, "instance": f"{pool}-{number}:9400"},
            "values": [[t, "0" if s["metric"]["__name__"] in COUNTED else value] for t, value in s["values"]],
        }
        for pool in ("prefill", "decode")
        for number in range(IDLE_ENGINES)
        for s in gauges
    ]


SCRAPED = RECORDED + idle_engines()


class FakePrometheus:
    """`factor` scales the traffic, `wobble` lets it sway; `status` fails every request, `age_s` makes samples old."""

    def __init__(self) -> None:
        self.factor, self.wobble, self.status, self.age_s = 1.0, 0.0, 200, 1.0
        self.asked = 0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                owner.asked += 1
                form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                body = json.dumps(owner.answer(form["query"][0])).encode()
                self.send_response(owner.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, query: str) -> dict[str, Any]:
        service = query.split('llmservice="')[1].split('"')[0]
        # Counters that fell would be restarts: all samples of one answer sway together.
        by = self.factor * (1 + self.wobble * math.sin(self.asked))
        shift_s = time.time() - self.age_s - NEWEST_S
        result = [self._moved(series, service, shift_s, by) for series in copy.deepcopy(SCRAPED)]
        return {"status": "success", "data": {"resultType": "matrix", "result": result}}

    def _moved(self, series: dict[str, Any], service: str, shift_s: float, by: float) -> dict[str, Any]:
        series["metric"][names.LLMSERVICE] = service
        by = by if series["metric"]["__name__"] in TRAFFIC else 1.0
        series["values"] = [[t + shift_s, repr(float(value) * by)] for t, value in series["values"]]
        return series
