"""Exposes metrics with prometheus_client, unchanged, until standard input ends.

Usage: exporter.py plain SECONDS | exporter.py multi DIR

The first line printed is JSON: {"port", "samples": [[name, labels, value, exemplar or null], ...]}: what the client itself says it
holds, for the end-to-end test to find again. `plain` has one sample with a time of its own, SECONDS after 1970. `multi` serves what
three worker processes counted, which have ended by then.
"""

import json
import os
import subprocess
import sys

# Where workers leave their figures; the client looks at it when it is loaded.
if sys.argv[1] in ("multi", "worker"):
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[2]

from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeHistogramMetricFamily, GaugeMetricFamily, Timestamp
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.utils import floatToGoString

WORKERS = 3


class Custom:
    """What a collector of a user's own gives: a time, a start, a histogram of gauges."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds

    def collect(self):
        calls = CounterMetricFamily("shop_calls", "Calls.", labels=["to"])
        calls.add_metric(['b"a\\d\nend'], 12.5, created=1_600_000_001.5)
        yield calls
        yield GaugeHistogramMetricFamily("shop_queue", "Waiting now.", buckets=[("1.0", 2), ("+Inf", 5)], gsum_value=-7.25)
        timed = GaugeMetricFamily("shop_timed", "With a time of its own.", labels=["n"])
        timed.add_metric(["1"], 3, timestamp=Timestamp(self.seconds, 250_000_000))
        yield timed


def plain(seconds: int) -> CollectorRegistry:
    registry = CollectorRegistry()
    orders = Counter("shop_orders", "Orders by kind.", ["kind"], registry=registry)
    orders.labels("book").inc(41, exemplar={"trace_id": "4bf92f3577b34da6"})
    orders.labels("ü€").inc(0.1)
    waits = Histogram("shop_seconds", "Time per order.", buckets=[0.5, 5], unit="seconds", registry=registry)
    for at, value in enumerate((0.1, 1, 10)):
        waits.observe(value, exemplar={"trace_id": f"span-{at}", "user": "u"})
    sizes = Summary("shop_size_bytes", "Sizes.", registry=registry)
    sizes.observe(2**53 - 1)
    for name, value in (("nan", float("nan")), ("low", float("-inf")), ("tiny", 5e-324), ("zero", -0.0), ("third", 1 / 3)):
        Gauge(f"shop_{name}", "An odd value.", registry=registry).set(value)
    Gauge("shop.temperature", "A dotted name.", ["room.name"], registry=registry).labels("hall").set(21.5)
    Info("shop_build", "What runs.", registry=registry).info({"version": "1.2"})
    Enum("shop_state", "How it is.", states=["open", "closed"], registry=registry).state("closed")
    registry.register(Custom(seconds))
    return registry


def worker(number: int) -> None:
    Counter("many_items", "Items.", ["kind"]).labels("good").inc(number)
    Histogram("many_seconds", "Times.", buckets=[0.5, 5]).observe(number)
    Summary("many_bytes", "Sizes.").observe(1000 * number)
    for mode in ("all", "liveall", "sum", "livesum", "min", "max", "mostrecent"):
        Gauge(f"many_{mode}", "A gauge of its mode.", multiprocess_mode=mode).set(number)


def multi(folder: str) -> CollectorRegistry:
    for number in range(1, WORKERS + 1):
        subprocess.run([sys.executable, __file__, "worker", folder, str(number)], check=True)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return registry


def main() -> None:
    if sys.argv[1] == "worker":
        worker(int(sys.argv[3]))
        return
    registry = multi(sys.argv[2]) if sys.argv[1] == "multi" else plain(int(sys.argv[2]))
    server, _ = start_http_server(0, addr="127.0.0.1", registry=registry)
    samples = [
        [s.name, s.labels, floatToGoString(s.value), s.exemplar and {"labels": s.exemplar.labels, "value": s.exemplar.value}]
        for family in registry.collect()
        for s in family.samples
    ]
    print(json.dumps({"port": server.server_port, "samples": samples}), flush=True)
    sys.stdin.read()


main()
