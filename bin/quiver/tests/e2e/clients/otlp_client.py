"""Sends metrics by OpenTelemetry's SDK, unchanged: one export per line on standard input.

Usage: otlp_client.py ENDPOINT http|grpc none|gzip cumulative|delta

A line is a JSON object {"add": n, "set": x, "record": [x, ...], "wait": [x, ...]}; after its export a line "ok" or "failed" is
printed. "wait" records into an exponential histogram, which there is only once something is recorded.
"""

import json
import sys

from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricExportResult, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import (
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)
from opentelemetry.sdk.resources import Resource


def told(exporter):
    """Makes an exporter's kind remember what became of its last export."""

    class Told(exporter):
        last = None

        def export(self, *args, **kwargs):
            self.last = super().export(*args, **kwargs)
            return self.last

    return Told


def make_exporter(endpoint, protocol, compression, temporality):
    preferred = None
    if temporality == "delta":
        preferred = {Counter: AggregationTemporality.DELTA, Histogram: AggregationTemporality.DELTA}
    if protocol == "grpc":
        import grpc
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

        compressions = {"none": grpc.Compression.NoCompression, "gzip": grpc.Compression.Gzip}
        more = {"insecure": True, "compression": compressions[compression]}
    else:
        from opentelemetry.exporter.otlp.proto.http import Compression
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        more = {"compression": Compression(compression)}
    return told(OTLPMetricExporter)(endpoint=endpoint, timeout=30, preferred_temporality=preferred, **more)


def main():
    exporter = make_exporter(*sys.argv[1:])
    # Exports happen when they are asked for.
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000, export_timeout_millis=60_000)
    resource = Resource.create(
        {
            "service.namespace": "shop",
            "service.name": "checkout",
            "service.instance.id": "checkout-1",
            "deployment.environment.name": "test",
        }
    )
    buckets = View(instrument_name="request.duration", aggregation=ExplicitBucketHistogramAggregation((0.5, 1, 2)))
    exponential = View(instrument_name="wait", aggregation=ExponentialBucketHistogramAggregation())
    views = [buckets, exponential]
    provider = MeterProvider(metric_readers=[reader], resource=resource, views=views, shutdown_on_exit=False)
    meter = provider.get_meter("tests")
    orders = meter.create_counter("orders", description="Orders taken.")
    temperature = meter.create_gauge("room.temperature", unit="Cel")
    duration = meter.create_histogram("request.duration", unit="s")
    wait = meter.create_histogram("wait", unit="s")

    for line in sys.stdin:
        step = json.loads(line)
        orders.add(step["add"], {"payment.method": "card"})
        temperature.set(step["set"], {"room": "café \"1\""})
        for value in step["record"]:
            duration.record(value, {"http.route": "/pay"})
        for value in step.get("wait", []):
            wait.record(value)
        exporter.last = None
        provider.force_flush(60_000)
        print("ok" if exporter.last == MetricExportResult.SUCCESS else "failed", flush=True)


if __name__ == "__main__":
    main()
