"""Makes crates/collect/src/http/cloud/testdata/sigv4_vectors.json: AWS' signing test suite, and what botocore says of requests such as ours.

    sigv4_vectors.py SUITE OUT    SUITE: the folder aws-signing-test-suite/v4, as the crate aws-sigv4 ships it
    sigv4_vectors.py CHECK        reads such a file and lets botocore judge its authorizations

What is left out of the suite: paths that are not normalised or not encoded twice (S3 alone wants that), folded headers.
"""

import datetime
import json
import pathlib
import sys
import unittest.mock
import urllib.parse

import botocore.auth
import botocore.awsrequest
import botocore.credentials

LEFT_OUT = {"get-utf8", "get-space-normalized", "get-header-value-multiline", "post-sts-header-after", "double-encode-path"}
KEYS = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
OURS = [
    ("GET", "https://aps-workspaces.eu-west-1.amazonaws.com/workspaces/ws-1/metrics", "", None, None),
    ("GET", "http://10.0.0.1:9100/federate?match%5B%5D=%7Bjob%3D%22a%20b%22%7D&match%5B%5D=up", "", None, "token/with+signs=="),
    ("GET", "http://[::1]:9100/a%2Fb/c~d?x=%C3%BC&empty=", "", None, None),
    ("GET", "http://host/@connections/(a)/b:c;d=e", "", None, None),
    ("POST", "https://aps-workspaces.eu-west-1.amazonaws.com/workspaces/ws-1/api/v1/remote_write", "snappy", "application/x-protobuf", None),
    ("POST", "https://aps-workspaces.us-gov-west-1.amazonaws.com:8443/api/v1/remote_write", "snappy\n", "application/x-protobuf;proto=io.prometheus.write.v2.Request", "FwoGZXIvYXdzEXAMPLE"),
]


def signed(method, url, headers, body, case):
    """Gives what botocore would send as Authorization."""
    keys = botocore.credentials.Credentials(case["access_key"], case["secret_key"], case.get("token"))
    request = botocore.awsrequest.AWSRequest(method=method, url=url, data=body)
    for name, value in headers:
        request.headers.add_header(name, value)
    at = datetime.datetime.strptime(case["time"], "%Y-%m-%dT%H:%M:%SZ")
    with unittest.mock.patch("botocore.auth.get_current_datetime", return_value=at):
        botocore.auth.SigV4Auth(keys, case["service"], case["region"]).add_auth(request)
    return request.headers["Authorization"]


def suite(folder):
    for path in sorted(folder.iterdir()):
        context = path / "context.json"
        if not context.exists() or path.name in LEFT_OUT or path.name.endswith("-unnormalized"):
            continue
        said = json.loads(context.read_text())
        keys = said["credentials"]
        text = (path / "header-signed-request.txt").read_bytes().decode().replace("\r\n", "\n")
        head, _, body = text.partition("\n\n")
        first, *lines = head.split("\n")
        method, target = first.rsplit(" ", 1)[0].split(" ", 1)
        headers = [line.split(":", 1) for line in lines if line]
        host = next(value for name, value in headers if name.lower() == "host")
        case = {"name": path.name, "method": method, "url": f"http://{host}{target}", "body": body, "region": said["region"]}
        case |= {"headers": [pair for pair in headers if pair[0] != "Authorization"], "service": said["service"]}
        case |= {"time": said["timestamp"], "access_key": keys["access_key_id"], "secret_key": keys["secret_access_key"]}
        yield case | {"token": keys.get("token"), "authorization": dict(headers)["Authorization"]}


def ours():
    for number, (method, url, body, kind, token) in enumerate(OURS):
        case = {"name": f"botocore-{number}", "method": method, "url": url, "body": body, "region": "eu-west-1", "service": "aps"}
        case |= {"time": "2026-11-25T12:34:56Z", "access_key": KEYS[0], "secret_key": KEYS[1], "token": token}
        said = signed(method, url, [("Content-Type", kind)] if kind else [], body.encode(), case)
        headers = [["Host", urllib.parse.urlsplit(url).netloc], ["X-Amz-Date", "20261125T123456Z"]]
        headers += [["Content-Type", kind]] if kind else []
        headers += [["X-Amz-Security-Token", token]] if token else []
        yield case | {"headers": headers, "authorization": said}


def check(path):
    cases = json.loads(path.read_text())
    for case in cases:
        skipped = ("host", "x-amz-date", "x-amz-security-token")
        headers = [pair for pair in case["headers"] if pair[0].lower() not in skipped]
        url = urllib.parse.quote(case["url"], safe="%:/?#[]@!$&'()*+,;=~")
        body = bytes.fromhex(case["body_hex"]) if "body_hex" in case else case["body"].encode()
        said = signed(case["method"], url, headers, body, case)
        assert said == case["authorization"], f"{case['name']}: {said}"
    print(f"{len(cases)} signatures are those that botocore computes")


if len(sys.argv) == 3:
    cases = [*suite(pathlib.Path(sys.argv[1])), *ours()]
    pathlib.Path(sys.argv[2]).write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
else:
    check(pathlib.Path(sys.argv[1]))
