"""What an application does with the sidecar's socket: one session, cells that share their variables."""

import json
import socket

connection = socket.socket(socket.AF_UNIX)
connection.connect("/run/cellblock/cellblock.sock")
lines = connection.makefile("rwb")


def call(method, **params):
    """Sends one request and returns its result."""
    lines.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n")
    lines.flush()
    answer = json.loads(lines.readline())
    while "id" not in answer:
        # A notification, such as that a session was closed.
        answer = json.loads(lines.readline())
    if "error" in answer:
        raise SystemExit("%s: %s" % (method, answer["error"]["message"]))
    return answer["result"]


session = call("session.create", runtime="python")["session_id"]
posture = call("session.posture", session_id=session)
print("strong posture:", posture["strong"])
call("cell.execute", session_id=session, code="import pandas as pd\nframe = pd.DataFrame({'x': range(10)})")
print("the sum is", call("cell.execute", session_id=session, code="int(frame['x'].sum())")["result"]["data"]["text/plain"])
call("session.close", session_id=session)
