"""A client that uses requests-oauthlib."""

from requests.auth import HTTPBasicAuth
from requests_oauthlib import OAuth2Session

from protocol import AUTHORIZE, CLIENT_ID, CLIENT_SECRET, ISSUER, REDIRECT_URI, REVOKE, SCOPE, TOKEN, serve


class Client:
    def __init__(self):
        self.session = OAuth2Session(CLIENT_ID, redirect_uri=REDIRECT_URI, scope=SCOPE.split(), pkce="S256")
        self.auth = HTTPBasicAuth(CLIENT_ID, CLIENT_SECRET or "")

    def authorize(self):
        uri, self.state = self.session.authorization_url(AUTHORIZE)
        return uri

    def exchange(self, redirected):
        token = self.session.fetch_token(TOKEN, authorization_response=redirected, client_secret=CLIENT_SECRET)
        return token["access_token"]

    def call(self, path):
        return self.session.get(ISSUER + path).status_code

    def refresh(self):
        token = self.session.refresh_token(TOKEN, auth=self.auth)
        return token["access_token"]

    def revoke(self):
        uri, headers, body = self.session._client.prepare_token_revocation_request(
            REVOKE, self.session.token["refresh_token"], "refresh_token")
        response = self.session.post(uri, data=body, headers=headers, auth=self.auth, withhold_token=True)
        response.raise_for_status()
        return "revoked"


serve(Client())
