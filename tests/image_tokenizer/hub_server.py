"""A small Hugging Face Hub on this machine: what huggingface_hub asks for to read and to write model repositories."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories as dictionaries of file names to bytes, and the requests that were made."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.cut_after: int | None = None  # ends the next answer with a file after so many bytes
        self.url = ""


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers while the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def answer(self, with_body: bool) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        if match := re.match(r"/api/models/([^/]+/[^/?]+)(/revision/[^/?]+)?(\?.*)?$", self.path):
            files = self.hub.repositories.get(match[1])
            if files is None:
                return self.missing("RepoNotFound")
            siblings = [{"rfilename": name} for name in files]
            return self.send(json.dumps({"id": match[1], "sha": COMMIT, "siblings": siblings}).encode(), with_body)
        if match := re.match(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)$", self.path):
            files = self.hub.repositories.get(match[1])
            if files is None:
                return self.missing("RepoNotFound")
            if match[3] not in files:
                return self.missing("EntryNotFound")
            return self.send(files[match[3]], with_body, is_file=True)
        return self.missing("EntryNotFound")

    def do_POST(self) -> None:
        self.hub.requests.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            content = json.loads(body)
            name = "/".join(filter(None, [content.get("organization"), content["name"]]))
            self.hub.repositories.setdefault(name, {})
            return self.send(json.dumps({"url": f"{self.hub.url}/{name}"}).encode())
        if match := re.match(r"/api/models/([^/]+/[^/]+)/preupload/", self.path):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.send(json.dumps({"files": files}).encode())
        if match := re.match(r"/api/models/([^/]+/[^/]+)/commit/", self.path):
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.hub.repositories[match[1]][entry["value"]["path"]] = content
            told = {"commitUrl": f"{self.hub.url}/{match[1]}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
            return self.send(json.dumps(told).encode())
        return self.send(b"{}")

    def missing(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", "not found")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, content: bytes, with_body: bool = True, is_file: bool = False) -> None:
        start = 0
        if is_file and (match := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            start = int(match[1])
        self.send_response(206 if start else 200)
        if is_file:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Type", "application/octet-stream" if is_file else "application/json")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if with_body and is_file and self.hub.cut_after is not None:
            self.wfile.write(content[start : start + self.hub.cut_after])
            self.hub.cut_after = None
            self.close_connection = True
        elif with_body:
            self.wfile.write(content[start:])

    def log_message(self, *arguments: object) -> None:
        pass
