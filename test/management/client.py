"""A client of the management API, with the package that openapi-python-client has generated in the folder PACKAGE.

client.py PACKAGE URL TOKEN WORKSPACE create NAME SCOPE | list | revoke ID
"""

import sys

folder, url, token, workspace, command, *arguments = sys.argv[1:]
sys.path.insert(0, folder)

from keywicket import AuthenticatedClient
from keywicket.api.workspace_tokens import create_workspace_token, list_workspace_tokens, revoke_workspace_token
from keywicket.models import Error, NewToken

client = AuthenticatedClient(url, token, headers={"X-Workspace-Slug": workspace}, raise_on_unexpected_status=True)
if command == "create":
    answer = create_workspace_token.sync(client=client, body=NewToken(name=arguments[0], scopes=[arguments[1]]))
elif command == "list":
    answer = list_workspace_tokens.sync(client=client)
else:
    answer = revoke_workspace_token.sync(arguments[0], client=client)

if isinstance(answer, Error):
    print("error", answer.error.code, answer.error.reason)
elif command == "create":
    print(answer.id, answer.token)
elif command == "list":
    print(*(t.id for t in answer.tokens))
else:
    print(answer.status.value)
