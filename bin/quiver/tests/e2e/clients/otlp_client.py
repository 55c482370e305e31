"""Sends metrics by OpenTelemetry's SDK, unchanged: one export per line on standard input.

Usage: otlp_client.py ENDPOINT none|gzip

A line is a JSON object {"add": n, "set": x, "record": [x, ...]}; after its export a line "ok" or "failed" is printed.
"""

import json
import sys

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExportResult, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource


class Told(OTLPMetricExporter):
    """The exporter, which remembers what became of its last export."""

    last = None

    def export(self, *args, **kwargs):
        self.last = super().export(*args, **kwargs)
        return self.last


def main():
    endpoint, compression = sys.argv[1:]
    exporter = Told(endpoint=endpoint, compression=Compression(compression), timeout=30)
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
    provider = MeterProvider(metric_readers=[reader], resource=resource, views=[buckets], shutdown_on_exit=False)
    meter = provider.get_meter("tests")
    orders = meter.create_counter("orders", description="Orders taken.")
    temperature = meter.create_gauge("room.temperature", unit="Cel")
    duration = meter.create_histogram("request.duration", unit="s")

    for line in sys.stdin:
        step = json.loads(line)
        orders.add(step["add"], {"payment.method": "card"})
        temperature.set(step["set"], {"room": "café \"1\""})
        for value in step["record"]:
            duration.record(value, {"http.route": "/pay"})
        exporter.last = None
        provider.force_flush(60_000)
        print("ok" if exporter.last == MetricExportResult.SUCCESS else "failed", flush=True)


if __name__ == "__main__":
    main()
