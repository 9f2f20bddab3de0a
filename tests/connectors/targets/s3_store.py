"""A small S3 store over HTTP, in memory: list, get with ranges, head, put with If-None-Match, multipart, delete."""

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape


class S3Store(ThreadingHTTPServer):
    """Listens on a free port of the loopback; `objects` by bucket and key, `refuse` answers all requests with a status.

    `late` is by how many seconds the store's clock is behind.
    """

    daemon_threads = False
    request_queue_size = 128  # a client opens a dozen connections at once; one that finds no room tries again after 1 s

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.made: dict[str, float] = {}
        self.late = 0.0
        self.parts: dict[str, dict[int, bytes]] = {}
        self.guard = threading.Lock()
        self.refuse: int | None = None

    def handle_error(self, *args: Any) -> None:
        """A client that hung up is no news."""

    @property
    def options(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret-canary",
            "AWS_REGION": "here",
            "AWS_ALLOW_HTTP": "true",
        }


@contextmanager
def s3_store() -> Iterator[S3Store]:
    with S3Store() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    server: S3Store

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
        if self.server.refuse is not None:
            self.reply(self.server.refuse, b"<Error><Code>Refused</Code><Message>no</Message></Error>")
            return
        with self.server.guard:
            status, content, headers = self.handle_object(unquote(url.path).lstrip("/"), query, body)
        self.reply(status, content, headers)

    def handle_object(self, key: str, query: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        objects = self.server.objects
        match self.command:
            case "GET" if "list-type" in query:
                return 200, listing(key, query, objects, self.server.made), {}
            case "POST" if "uploads" in query:
                self.server.parts[key] = {}
                return 200, b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>", {}
            case "PUT" if "partNumber" in query:
                self.server.parts[key][int(query["partNumber"])] = body
                return 200, b"", {"ETag": etag(body)}
            case "POST" if "uploadId" in query:
                self.server.made[key] = time.time() - self.server.late
                objects[key] = b"".join(part for _, part in sorted(self.server.parts.pop(key).items()))
                tag = etag(objects[key]).encode()
                return 200, b"<CompleteMultipartUploadResult><ETag>%b</ETag></CompleteMultipartUploadResult>" % tag, {}
            case "POST" if "delete" in query:
                names = re.findall(r"<Key>(.*?)</Key>", body.decode())
                for name in names:
                    objects.pop(f"{key.rstrip('/')}/{unescape(name)}", None)
                deleted = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names)
                return 200, f"<DeleteResult>{deleted}</DeleteResult>".encode(), {}
            case "PUT":
                if self.headers.get("if-none-match") == "*" and key in objects:
                    return 412, b"<Error><Code>PreconditionFailed</Code></Error>", {}
                self.server.made[key] = time.time() - self.server.late
                objects[key] = body
                return 200, b"", {"ETag": etag(body)}
            case "DELETE":
                objects.pop(key, None)
                return 204, b"", {}
        if key not in objects:
            return 404, b"<Error><Code>NoSuchKey</Code></Error>", {}
        data = objects[key]
        headers = {"ETag": etag(data), "Last-Modified": formatdate(self.server.made[key], usegmt=True)}
        if wanted := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("range", "")):
            start = int(wanted[1]) if wanted[1] else max(0, len(data) - int(wanted[2]))
            stop = min(len(data), int(wanted[2]) + 1) if wanted[1] and wanted[2] else len(data)
            return 206, data[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
        return 200, data, headers

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815

    def reply(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        """Tests read answers, not logs."""


def etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def listing(bucket: str, query: dict[str, str], objects: dict[str, bytes], made: dict[str, float]) -> bytes:
    prefix, after, mark = query.get("prefix", ""), query.get("start-after", ""), query.get("delimiter", "")
    keys = sorted(name.split("/", 1)[1] for name in objects if name.startswith(bucket.rstrip("/") + "/"))
    items, folders = [], set()
    for key in keys:
        if not key.startswith(prefix) or key <= after:
            continue
        rest = key[len(prefix) :]
        if mark and mark in rest:
            folders.add(prefix + rest.split(mark, 1)[0] + mark)
            continue
        name = f"{bucket.rstrip('/')}/{key}"
        data, date = objects[name], time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(made[name]))
        items.append(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{date}</LastModified><ETag>{escape(etag(data))}</ETag>"
            f"<Size>{len(data)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        )
    items += [f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in sorted(folders)]
    return (
        f"<ListBucketResult><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(items)}</KeyCount>"
        f"<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{''.join(items)}</ListBucketResult>"
    ).encode()
