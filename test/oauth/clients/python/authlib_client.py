"""A client that uses Authlib with requests."""

from authlib.common.security import generate_token
from authlib.integrations.requests_client import OAuth2Session

from protocol import AUTHORIZE, CLIENT_ID, CLIENT_SECRET, ISSUER, REDIRECT_URI, REVOKE, SCOPE, TOKEN, serve


class Client:
    def __init__(self):
        self.session = OAuth2Session(
            CLIENT_ID, CLIENT_SECRET, scope=SCOPE, redirect_uri=REDIRECT_URI, code_challenge_method="S256")

    def authorize(self):
        self.verifier = generate_token(48)
        uri, self.state = self.session.create_authorization_url(AUTHORIZE, code_verifier=self.verifier)
        return uri

    def exchange(self, redirected):
        token = self.session.fetch_token(
            TOKEN, authorization_response=redirected, state=self.state, code_verifier=self.verifier)
        return token["access_token"]

    def call(self, path):
        return self.session.get(ISSUER + path).status_code

    def refresh(self):
        token = self.session.refresh_token(TOKEN, refresh_token=self.session.token["refresh_token"])
        return token["access_token"]

    def revoke(self):
        response = self.session.revoke_token(
            REVOKE, token=self.session.token["refresh_token"], token_type_hint="refresh_token")
        response.raise_for_status()
        return "revoked"


serve(Client())
