"""An HTTP/1.1 server that answers with the path segments that it reads. Its first line of output is its port.

An argument selects a fault: "plus" reads a + as a space, "denies" refuses every request with an
answer like keywicket's, and "retried" refuses every other request with 503.
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, unquote_plus

MODE = sys.argv[1] if len(sys.argv) > 1 else ""
DENIAL = {"error": {"code": "FORBIDDEN", "reason": "no_route", "message": "There is no such route."}}

lock = threading.Lock()
reached = 0


def decode(text):
    return unquote_plus(text, errors="strict") if MODE == "plus" else unquote(text, errors="strict")


def readings(path):
    """Returns the segments that three kinds of server read, or None if the path is not UTF-8."""
    raw = path.split("?", 1)[0]
    try:
        segments = [decode(s) for s in raw[1:].split("/")]
        return {
            "segments": segments,
            "whole": decode(raw)[1:].split("/"),
            "twice": [decode(s) for s in segments],
        }
    except UnicodeDecodeError:
        return {"segments": None, "whole": None, "twice": None}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Header and body are sent in one write, without delay.
    wbufsize = -1
    disable_nagle_algorithm = True

    def parse_request(self):
        """Counts a request before it is parsed, so that requests that this server refuses are counted too."""
        global reached
        if not self.raw_requestline.startswith(b"COUNT "):
            with lock:
                reached += 1
        return super().parse_request()

    def do_GET(self):
        if MODE == "denies":
            self.answer(403, DENIAL)
        elif MODE == "retried" and reached % 2 == 1:
            self.answer(503, {})
        else:
            target = self.requestline.split(" ")[1]
            self.answer(200, {"upstream": "python", "method": "GET", "path": target, **readings(self.path)})

    def do_COUNT(self):
        """Returns the number of requests so far. Only the test can use it: Envoy does not pass this method on."""
        self.answer(200, reached)

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
