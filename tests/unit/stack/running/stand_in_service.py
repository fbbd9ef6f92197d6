"""A program in place of a service: python stand_in_service.py well|silent|broken PORT

well: answers 200 to every GET, and has a child process as vLLM has; silent: never listens; broken: ends with status 3.
"""

import http.server
import subprocess
import sys
import threading


class Well(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Silent: the log must hold only what a test looks for."""


match sys.argv[1]:
    case "well":
        subprocess.Popen(["sleep", "300"])
        server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[2])), Well)
        print("listening", flush=True)
        server.serve_forever()
    case "silent":
        threading.Event().wait()
    case "broken":
        print("no such model: nowhere/nothing", flush=True)
        sys.exit(3)
