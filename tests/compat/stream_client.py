"""Sends frames to /api/v1/metrics/stream with Python's own gzip, as it flows: `stream_client.py PORT`.

Each frame is a counter of one sample; 20 reach the stream `flow`, 30 `members`, 5 `cut`, and none any other.
"""

import gzip
import http.client
import json
import sys
import zlib


class Stream:
    """A request whose body is written while its answer is read."""

    def __init__(self, stream_id: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
        self.connection.putrequest("POST", f"/api/v1/metrics/stream?source_id=python&stream_id={stream_id}")
        for name, value in (
            ("Content-Type", "application/x-ndjson"),
            ("Content-Encoding", "gzip"),
            ("Transfer-Encoding", "chunked"),
        ):
            self.connection.putheader(name, value)
        self.connection.endheaders()
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200, self.answer.read()
        assert self.line()["stream_id"] == stream_id

    def send(self, data: bytes) -> None:
        if data:
            self.connection.send(b"%x\r\n%s\r\n" % (len(data), data))

    def end(self) -> None:
        self.connection.send(b"0\r\n\r\n")

    def line(self):
        """Gives the next line of the answer; None at its end."""
        line = self.answer.readline()
        return json.loads(line) if line else None

    def expect_stored(self, seq: int) -> None:
        ack = self.line()
        assert ack["ack"] == seq and ack["accepted"] == 1 and ack["durability"] == "WAL_SYNCED", ack

    def expect_closed(self, code: str) -> None:
        closed = self.line()
        assert closed["closed"] == "failed" and closed["error"]["code"] == code, closed
        assert self.line() is None


def frame(name: str, seq: int) -> bytes:
    metric = {"name": name, "metric_type": "COUNTER", "value": seq, "labels": {"say": "ü" * 20}}
    return json.dumps({"seq": seq, "metrics": [metric]}).encode() + b"\n"


def flow() -> None:
    """Each frame is acknowledged before the next one is written."""
    stream, packer = Stream("flow"), zlib.compressobj(wbits=31)
    for seq in range(1, 21):
        stream.send(packer.compress(frame("flow", seq)) + packer.flush(zlib.Z_SYNC_FLUSH))
        stream.expect_stored(seq)
    stream.send(packer.flush(zlib.Z_FINISH))
    stream.end()
    assert stream.line() is None


def members() -> None:
    """A member for each frame, cut into chunks wherever it may be."""
    stream = Stream("members")
    body = b"".join(gzip.compress(frame("members", seq)) for seq in range(1, 31))
    for at in range(0, len(body), 37):
        stream.send(body[at : at + 37])
    stream.end()
    for seq in range(1, 31):
        stream.expect_stored(seq)
    assert stream.line() is None


def cut() -> None:
    """The body ends where its gzip does not: whole frames count, the half one does not."""
    stream, packer = Stream("cut"), zlib.compressobj(wbits=31)
    for seq in range(1, 6):
        stream.send(packer.compress(frame("cut", seq)) + packer.flush(zlib.Z_SYNC_FLUSH))
        stream.expect_stored(seq)
    stream.send(packer.compress(frame("cut", 6)[:-20]) + packer.flush(zlib.Z_SYNC_FLUSH))
    stream.end()
    stream.expect_closed("incomplete_body")


def hostile() -> None:
    for name, body, code in (
        ("lines", gzip.compress(b"\n" * (256 << 20)), "inflates_too_far"),
        ("line", gzip.compress(b"[" * (256 << 20)), "inflates_too_far"),
        ("text", b"this is no gzip, but plain text\n", "damaged_body"),
        ("wrong", gzip.compress(b"")[:-4] + b"oops", "incomplete_body"),
    ):
        stream = Stream(name)
        try:
            stream.send(body)
            stream.end()
        except OSError:
            # It may be closed before all of it was sent.
            pass
        stream.expect_closed(code)


flow()
members()
cut()
hostile()
