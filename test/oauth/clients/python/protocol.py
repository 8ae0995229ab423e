"""The protocol between a client and the Go test: see README.md in the parent folder."""

import os
import sys

ISSUER = os.environ["ISSUER"]
CLIENT_ID = os.environ["CLIENT_ID"]
CLIENT_SECRET = os.environ["CLIENT_SECRET"] or None
REDIRECT_URI = os.environ["REDIRECT_URI"]
SCOPE = os.environ["SCOPE"]

AUTHORIZE = ISSUER + "/oauth/consent"
TOKEN = ISSUER + "/api/oauth/token"
REVOKE = ISSUER + "/api/oauth/revoke"


def serve(client):
    """Calls the method of the client that each command names, and prints what the method returns."""
    for line in sys.stdin:
        command, *argument = line.split()
        try:
            answer = getattr(client, command)(*argument)
        except Exception as e:
            answer = f"error {type(e).__name__}: {e}".replace("\n", " ")
        print(answer, flush=True)
