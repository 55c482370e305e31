"""Registers the targets of a file with Quiver; run it as often as you like.

QUIVER_URL names the server, QUIVER_TOKEN who asks.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request

TRIES = 60


def register(base: str, target: dict) -> str:
    """Registers one target, and waits for a server that is not ready yet. Gives what became of it."""
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get("QUIVER_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    body = json.dumps(target).encode()
    for attempt in range(TRIES):
        request = urllib.request.Request(f"{base}/api/v1/metrics/targets", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return "registered" if answer.status == 201 else "registered already"
        except urllib.error.HTTPError as error:
            reason = error.read().decode(errors="replace")
            # 503: the start is under way, or the catalog away. Everything else stays wrong.
            if error.code != 503:
                raise SystemExit(f"{target['target_id']}: {error.code} {reason}") from None
        except OSError as error:
            reason = str(error)
        if attempt + 1 < TRIES:
            time.sleep(1)
    raise SystemExit(f"{target['target_id']}: {reason}")


def main() -> None:
    base = os.environ.get("QUIVER_URL", "http://127.0.0.1:9740").rstrip("/")
    with open(sys.argv[1], encoding="utf-8") as file:
        targets = json.load(file)
    for target in targets:
        print(f"{target['target_id']}: {register(base, target)}")


if __name__ == "__main__":
    main()
