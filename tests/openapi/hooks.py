"""What a schema cannot say: strings that are good in the formats of the document.

schemathesis takes a format that it does not know for any string at all, and a query that is any string at all is a bad query. With these
every request that is made to be good is good, so that an answer of 4xx to it is a mistake of the server's or of the document's.
"""

import os

import schemathesis
from hypothesis import strategies as st

# Where something can be scraped, something cannot, and nothing listens.
HERE = os.environ["QUIVER_ADDRESS"]

FORMATS = {
    "promql": [
        "up", "1 + 1", "sum by (job) (rate(up[5m]))", "up offset 1h", "topk(3, up)", "{__name__=~\".+\"}", "absent(nothing)",
        "vector(1) > bool 0", "max_over_time(up[10m:1m])", "\"text\"", "histogram_quantile(0.9, nothing)", "label_replace(up, \"x\", \"$1\", \"job\", \"(.*)\")",
    ],
    "promql-live": ["up", "sum(up)", "rate(up[1m])", "vector(1)"],
    "promql-selector": ["up", "{job=\"quiver\"}", "{__name__=~\"go_.*\",x!=\"y\"}", "nothing"],
    "series": ["up", "http_requests_total{code=\"200\"}", "{__name__=\"x\", a=\"b\"}"],
    "sql": [
        "SELECT 1", "SELECT count(*) FROM metrics_ts", "SELECT * FROM series LIMIT 3", "SELECT * FROM targets",
        "SELECT * FROM promql('up', now() - INTERVAL 5 MINUTE, now(), INTERVAL 1 MINUTE)",
    ],
    "time-or-seconds": [
        "0", "1", "1750500000", "1750500000.085", "2025-06-21T10:00:00Z", "2025-06-21T12:00:00.5+02:00", "2262-01-01T00:00:00Z",
    ],
    "prometheus-duration": ["1s", "15s", "1m30s", "250ms", "1h", "5m", "2d", "1w", "1y"],
    "step": ["1000", "15d", "1w"],
    "scrape-pool": ["quiver"],
    "json-labels": ["{}", "{\"__address__\": \"a:1\", \"job\": \"x\"}"],
    "live-step": ["1s", "15s", "1m"],
    "recent": ["5m", "1h"],
    "live-token": [""],
    "event-id": ["", "0198c0de-0000-7000-8000-000000000000"],
    "target-url": [HERE, f"http://{HERE}", f"http://{HERE}/metrics", "127.0.0.1:1", f"http://{HERE}/nothing"],
}

for name, examples in FORMATS.items():
    schemathesis.openapi.format(name, st.sampled_from(examples))

# Frames of a stream: whatever they are, each is answered in a line of its own.
FRAMES = [b"", b"{}\n", b"{\"seq\": 1, \"metrics\": []}\n", b"nothing\n", b"{\"name\": \"a\", \"metric_type\": \"GAUGE\", \"value\": 1}\n"]
schemathesis.openapi.media_type("application/x-ndjson", st.sampled_from(FRAMES))


@schemathesis.serializer("application/x-ndjson")
def ndjson(_, value):
    return value if isinstance(value, bytes) else str(value).encode()
