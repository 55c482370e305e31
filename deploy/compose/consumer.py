"""Works with the event metrics_collected: takes it from NATS JetStream and prints a line for each.

A durable consumer of the stream: what comes while this program is down waits for it, and what it did not confirm comes
again. An event may come twice, with the same id; the last ones are remembered.
NATS_URL, NATS_USER and NATS_PASSWORD_FILE say where and as whom; STREAM and DURABLE what; no package is needed.
"""

import json
import os
import socket
import sys
import time
from collections import OrderedDict
from urllib.parse import urlparse

STREAM = os.environ.get("STREAM", "METRICS")
DURABLE = os.environ.get("DURABLE", "example")
REMEMBERED = 10_000
BATCH = 100


class Nats:
    """As much of a client as this needs: one connection, one inbox."""

    def __init__(self, url: str, user: str, password: str) -> None:
        place = urlparse(url)
        self.socket = socket.create_connection((place.hostname, place.port or 4222), timeout=60)
        self.reader = self.socket.makefile("rb")
        self.inbox = f"_INBOX.{os.getpid()}.{time.monotonic_ns()}"
        hello = {"verbose": False, "pedantic": False, "user": user, "pass": password, "headers": True, "no_responders": True}
        self.send(f"CONNECT {json.dumps(hello)}\r\nSUB {self.inbox} 1\r\n".encode())

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def publish(self, subject: str, body: bytes, reply: str = "") -> None:
        self.send(f"PUB {subject} {reply} {len(body)}\r\n".encode() + body + b"\r\n")

    def next(self) -> tuple[str, bytes, bytes]:
        """Waits for a message; gives the subject to answer to, the headers and the body."""
        while line := self.reader.readline():
            words = line.decode().split()
            if not words:
                continue
            if words[0] == "PING":
                self.send(b"PONG\r\n")
            elif words[0] == "-ERR":
                raise OSError(line.decode().strip())
            elif words[0] in ("MSG", "HMSG"):
                data = self.reader.read(int(words[-1]) + 2)[:-2]
                head = int(words[-2]) if words[0] == "HMSG" else 0
                # MSG subject sid [reply] bytes; HMSG subject sid [reply] head bytes.
                has_reply = len(words) == (6 if words[0] == "HMSG" else 5)
                return (words[3] if has_reply else "", data[:head], data[head:])
        raise OSError("the connection was closed")

    def request(self, subject: str, value: dict) -> dict:
        self.publish(subject, json.dumps(value).encode(), self.inbox)
        _, head, body = self.next()
        if not body:
            raise OSError(f"{subject}: {head.decode().strip() or 'no answer'}")
        answer = json.loads(body)
        if "error" in answer:
            raise OSError(f"{subject}: {answer['error'].get('description')}")
        return answer


def events(nats: Nats):
    """Gives events with the subject that confirms them."""
    config = {"durable_name": DURABLE, "ack_policy": "explicit", "deliver_policy": "all", "max_ack_pending": 10 * BATCH}
    nats.request(f"$JS.API.CONSUMER.DURABLE.CREATE.{STREAM}.{DURABLE}", {"stream_name": STREAM, "config": config})
    while True:
        ask = {"batch": BATCH, "expires": 30_000_000_000}
        nats.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{DURABLE}", json.dumps(ask).encode(), nats.inbox)
        for _ in range(BATCH):
            reply, head, body = nats.next()
            if b" 503" in head[:12] or b" 409" in head[:12]:
                # The consumer or the stream is gone: it is made anew.
                raise OSError(head.decode().strip())
            # 404 and 408: nothing more for now.
            if not reply or b" 40" in head[:12]:
                break
            yield json.loads(body), reply


def show(event: dict) -> str:
    data = event["metrics_collected"]
    summary = ", ".join(f"{count} {kind}" for kind, count in data["metrics_summary"].items() if count)
    return (
        f"{event['timestamp']} {data['source_id']}: {data['metrics_count']} metrics ({summary}) by "
        f"{data['collection_method']} in {data['collection_duration_ms']} ms, {data['target_health']}"
    )


def work(seen: OrderedDict) -> None:
    password = os.environ.get("NATS_PASSWORD", "")
    if path := os.environ.get("NATS_PASSWORD_FILE"):
        with open(path, encoding="utf-8") as file:
            password = file.read().strip()
    nats = Nats(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), os.environ.get("NATS_USER", "quiver"), password)
    for event, reply in events(nats):
        if event["event_id"] not in seen:
            print(show(event), flush=True)
            seen[event["event_id"]] = None
            if len(seen) > REMEMBERED:
                seen.popitem(last=False)
        # After the work: what is not confirmed comes again.
        nats.publish(reply, b"+ACK")


def main() -> None:
    seen: OrderedDict = OrderedDict()
    while True:
        try:
            work(seen)
        except (OSError, ValueError) as error:
            print(f"tried again in a second: {error}", file=sys.stderr, flush=True)
            time.sleep(1)


if __name__ == "__main__":
    main()
