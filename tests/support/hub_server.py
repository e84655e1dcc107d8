"""A small server with the protocol of the Hugging Face hub, for models and data sets in local directories."""

import hashlib
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

COMMIT = "a" * 40


def client_environment(home: Path, endpoint: str, offline: bool = False) -> dict[str, str]:
    """Environment of a process that downloads from `endpoint` into a cache in `home`."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("HF_") and "proxy" not in name.lower()
    }
    return {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline))}


class HubServer:
    """The server, while it is entered.

    Attributes:
        repositories: "owner/name" of a model, or "datasets/owner/name", to the directory of its files.
        requests: paths of the GET requests so far.
        ranges: of those, the first byte that was asked for, where it is not 0.
        cut: of larger files, only so many bytes are sent before the connection is closed, and the rest is refused;
            None: all are sent.
    """

    def __init__(self, repositories: dict[str, Path]) -> None:
        self.repositories = repositories
        self.requests: list[str] = []
        self.ranges: list[tuple[str, int]] = []
        self.cut: int | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))

    @property
    def endpoint(self) -> str:
        """The value of HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


def _sha(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_args: object) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "GET":
                return
            if hub.cut is not None and len(body) > hub.cut:
                self.wfile.write(body[: hub.cut])
                self.close_connection = True
            else:
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = self.path.split("?")[0].lstrip("/")
            if self.command == "GET":
                hub.requests.append(path)
            about = path.startswith("api/")
            path = path.removeprefix("api/").removeprefix("models/")
            kind = "datasets/" if path.startswith("datasets/") else ""
            owner, name, *rest = [*path.removeprefix(kind).split("/"), "", ""]
            route, revision = rest[:2]
            directory = hub.repositories.get(f"{kind}{owner}/{name}")
            if directory is None:
                self.answer(401, X_Error_Code="RepoNotFound")
            elif revision not in ("main", COMMIT) and not (about and route == ""):
                self.answer(404, X_Error_Code="RevisionNotFound")
            else:
                files = {str(file.relative_to(directory)): file for file in directory.rglob("*") if file.is_file()}
                if about:
                    self.describe(route, f"{owner}/{name}", files)
                else:
                    self.send(files.get("/".join(rest[2:]).rstrip("/")))

        def describe(self, route: str, name: str, files: dict[str, Path]) -> None:
            rows = [
                {"type": "file", "path": path, "size": file.stat().st_size, "oid": _sha(file)[:40]}
                for path, file in files.items()
            ]
            info = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in files]}
            body = json.dumps(rows if route == "tree" else info).encode()
            self.answer(200, body, Content_Type="application/json")

        def send(self, file: Path | None) -> None:
            if file is None:
                self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
                return
            data = file.read_bytes()
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            headers = {"ETag": f'"{_sha(file)}"', "X_Repo_Commit": COMMIT, "Accept_Ranges": "bytes"}
            if wanted and int(wanted[1]):
                first = int(wanted[1])
                hub.ranges.append((file.name, first))
                if hub.cut is not None:
                    self.answer(503)
                    return
                whole = f"bytes {first}-{len(data) - 1}/{len(data)}"
                self.answer(206, data[first:], **headers, Content_Range=whole)
            else:
                self.answer(200, data, **headers)

        do_HEAD = do_GET  # noqa: N815

    return Handler
