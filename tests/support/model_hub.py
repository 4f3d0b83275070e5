"""A web server that answers as the Hugging Face hub does for one model."""

import hashlib
import json
from collections.abc import Mapping
from http.server import ThreadingHTTPServer

from tests.support.web_servers import Answering

REPO, COMMIT = "someone/tiny", "89abcdef0123456789abcdef0123456789abcdef"


class _Handler(Answering):
    server: "ModelHub"

    def do_GET(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        hub.seen.append(path)
        if hub.refuses is not None:
            status, code = hub.refuses
            return self._send(status, b'{"error": "no"}', {"X-Error-Code": code})
        # `main` and a tag are the commit.
        if path in (f"/api/models/{REPO}", *(f"/api/models/{REPO}/revision/{r}" for r in ("main", "v1", COMMIT))):
            siblings = [{"rfilename": name} for name in hub.files]
            return self._send(200, json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}).encode(), {})
        if path.startswith(f"/api/models/{REPO}/revision/"):
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        name = path.removeprefix(f"/{REPO}/resolve/{COMMIT}/")
        if name in hub.files:
            data = hub.files[name]
            etag = hashlib.sha256(data).hexdigest() if name.endswith("safetensors") else hashlib.sha1(data).hexdigest()
            data = hub.altered.get(name, data)
            return self._send(200, data, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'})
        self._send(404, b"{}", {"X-Error-Code": "RepoNotFound" if path.startswith("/api") else "EntryNotFound"})

    do_HEAD = do_GET


class ModelHub(ThreadingHTTPServer):
    """The files of one model, the paths that were asked for, and the answer to everything if it refuses."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files = dict(files)
        self.altered: dict[str, bytes] = {}  # sent in place of a file, with the hash of the right one
        self.seen: list[str] = []
        self.refuses: tuple[int, str] | None = None  # the status, and the hub's code of the error
