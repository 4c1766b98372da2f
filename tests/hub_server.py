"""A server of this machine that speaks the Hugging Face Hub's endpoints of files and commits, for tests.

huggingface_hub's own client talks to it over HTTP; nothing of the client is replaced.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """Repositories, and what was asked of the server.

    Attributes:
        commits: by repository and commit, the files.
        refs: by repository and branch, the commit.
        cut: by file, after how many bytes the server closes the connection, once.
        statuses: by repository, an answer in the place of its files.
        requests: "METHOD path [Range]" in order.
    """

    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    refs: dict[str, dict[str, str]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # of git LFS, by SHA-256
    requests: list[str] = field(default_factory=list)
    endpoint: str = ""

    def commit(self, repository: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Add files to a branch; the new commit."""
        refs = self.refs.setdefault(repository, {})
        content = {**self.commits.get(repository, {}).get(refs.get(branch, ""), {}), **files}
        listed = "".join(f"{name} {hashlib.sha256(data).hexdigest()}" for name, data in sorted(content.items()))
        sha = hashlib.sha1(f"{refs.get(branch)} {listed}".encode()).hexdigest()
        self.commits.setdefault(repository, {})[sha] = content
        refs[branch] = sha
        return sha

    def find(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | str:
        """(commit, files) of a branch or a commit, or the Hub's code of the error."""
        if repository not in self.commits or repository in self.private:
            return "RepoNotFound"
        sha = self.refs[repository].get(revision, revision)
        files = self.commits[repository].get(sha)
        return "RevisionNotFound" if files is None else (sha, files)


@contextmanager
def serve() -> Iterator[Hub]:
    """The server in a thread, at `Hub.endpoint`, until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        """Silence."""

    def _note(self) -> str:
        path = unquote(urlsplit(self.path).path)
        if path != "/api/agent-harnesses":  # asked or not, by the environment of the client
            self.hub.requests.append(" ".join(filter(None, (self.command, path, self.headers.get("Range")))))
        return path

    def _answer(self, status: int, content: object = None, **headers: str) -> None:
        body = json.dumps(content).encode() if content is not None else b""
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def do_HEAD(self) -> None:
        """A file's size, ETag and commit."""
        self.do_GET()

    def do_GET(self) -> None:
        """A file, or a part of it."""
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+(?:/pr/\d+)?)/(.+)", self._note())
        if match is None:
            return self._answer(404, {"error": f"no such endpoint: {self.path}"})
        repository, revision, file = match.groups()
        if repository in self.hub.statuses:
            return self._answer(self.hub.statuses[repository], {"error": "refused"})
        found = self.hub.find(repository, revision)
        if isinstance(found, str):
            status = 401 if found == "RepoNotFound" else 404  # the Hub does not tell private from absent
            return self._answer(status, {"error": found}, X_Error_Code=found)
        sha, files = found
        if file not in files:
            return self._answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
        return self._send_file(file, files[file], sha)

    def _send_file(self, file: str, data: bytes, sha: str) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        start = int(asked[1]) if asked else 0
        end = min(int(asked[2]) + 1, len(data)) if asked and asked[2] else len(data)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.send_header("Content-Length", str(end - start))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", sha)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.hub.cut.pop(file, None)
        self.wfile.write(data[start : end if cut is None else start + cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True

    def do_PUT(self) -> None:
        """An object of git LFS."""
        path, data = self._note(), self._body()
        self.hub.objects[hashlib.sha256(data).hexdigest()] = data
        self._answer(200 if hashlib.sha256(data).hexdigest() == path.rpartition("/")[2] else 400)

    def do_POST(self) -> None:
        """What an upload asks: the repository, how to send each file, the objects of git LFS, the commit."""
        path, body = self._note(), self._body()
        if self.headers.get("Authorization") != "Bearer hf_test":
            return self._answer(401, {"error": "Invalid credentials"})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/(.+)", path):
            repository, branch = match.groups()
            self.hub.refs[repository].setdefault(branch, self.hub.refs[repository]["main"])
            return self._answer(200, {})
        if re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", path):
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
            files = [{"path": name, "uploadMode": modes[name], "shouldIgnore": False} for name in names]
            return self._answer(200, {"files": files})
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            return self._commit(*match.groups(), body)
        return self._answer(404, {"error": f"no such endpoint: {path}"})

    def _create(self, asked: dict) -> None:
        name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
        if name in self.hub.commits:
            return self._answer(409, {"error": "exists", "url": f"{self.hub.endpoint}/{name}"})
        self.hub.commit(name, {".gitattributes": b""})
        return self._answer(200, {"url": f"{self.hub.endpoint}/{name}", "name": name})

    def _batch(self, asked: dict) -> None:
        objects = [
            {**thing, "actions": {"upload": {"href": f"{self.hub.endpoint}/lfs/{thing['oid']}"}}}
            for thing in asked["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")

    def _commit(self, repository: str, branch: str, body: bytes) -> None:
        files = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        sha = self.hub.commit(repository, files, branch)
        url = f"{self.hub.endpoint}/{repository}/commit/{sha}"
        self._answer(200, {"success": True, "commitUrl": url, "commitOid": sha, "hookOutput": ""})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))
