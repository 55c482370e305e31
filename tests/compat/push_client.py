"""Pushes with prometheus_client, unchanged: `push_client.py <gateway> <step>`; the end-to-end test looks at what came of it."""

import sys

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.exposition import delete_from_gateway, push_to_gateway, pushadd_to_gateway

# A slash and a space: the client sends such values as base64.
KEY = {"instance": "host/1 a", "shift": ""}


def full(last: float) -> CollectorRegistry:
    registry = CollectorRegistry()
    Gauge("job_last_success", "When the job went well.", registry=registry).set(last)
    items = Counter("job_items", "Items by kind.", ["kind"], registry=registry)
    items.labels("good").inc(41)
    items.labels('b"ad\\').inc(1)
    seconds = Histogram("job_seconds", "Time per item.", buckets=[0.5, 5], registry=registry)
    for value in (0.1, 1, 10):
        seconds.observe(value)
    Info("job_build", "What ran.", registry=registry).info({"version": "1.2"})
    return registry


def one(name: str, value: float) -> CollectorRegistry:
    registry = CollectorRegistry()
    Gauge(name, "One.", registry=registry).set(value)
    return registry


def main(gateway: str, step: str) -> None:
    if step == "put":
        push_to_gateway(gateway, job="nightly", registry=full(1.5), grouping_key=KEY)
    elif step == "add":
        pushadd_to_gateway(gateway, job="nightly", registry=one("job_last_success", 2.5), grouping_key=KEY)
    elif step == "replace":
        push_to_gateway(gateway, job="nightly", registry=one("job_other", 3), grouping_key=KEY, compression="gzip")
    elif step == "delete":
        delete_from_gateway(gateway, job="nightly", grouping_key=KEY)
    elif step == "contradict":
        bad = CollectorRegistry()
        Histogram("job_last_success", "Now a histogram.", registry=bad).observe(1)
        try:
            push_to_gateway(gateway, job="other", registry=bad)
        except OSError as error:
            assert getattr(error, "code", None) == 400, error
        else:
            raise AssertionError("a family of two types was taken")
    else:
        raise SystemExit(f"no step {step}")


main(sys.argv[1], sys.argv[2])
