//! A client that uses the crate oauth2. The protocol between this program and the Go test is in README.md in the parent folder.

use std::env;
use std::error::Error;
use std::io::{self, BufRead, Write};

use oauth2::basic::{BasicClient, BasicTokenResponse};
use oauth2::reqwest;
use oauth2::{
    AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointNotSet, EndpointSet, ErrorResponse, HttpClientError,
    HttpRequest, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, RevocationUrl, Scope,
    StandardRevocableToken, SyncHttpClient, TokenResponse, TokenUrl,
};
use oauth2::url::Url;

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type OAuth = BasicClient<EndpointSet, EndpointNotSet, EndpointNotSet, EndpointSet, EndpointSet>;

struct Client {
    oauth: OAuth,
    http: reqwest::blocking::Client,
    verifier: Option<PkceCodeVerifier>,
    state: Option<CsrfToken>,
    token: Option<BasicTokenResponse>,
}

impl Client {
    fn new() -> Result<Client> {
        let issuer = env::var("ISSUER")?;
        let mut oauth = BasicClient::new(ClientId::new(env::var("CLIENT_ID")?))
            .set_auth_uri(AuthUrl::new(format!("{issuer}/oauth/consent"))?)
            .set_token_uri(TokenUrl::new(format!("{issuer}/api/oauth/token"))?)
            .set_revocation_url(RevocationUrl::new(format!("{issuer}/api/oauth/revoke").replacen("http:", "https:", 1))?)
            .set_redirect_uri(RedirectUrl::new(env::var("REDIRECT_URI")?)?);
        let secret = env::var("CLIENT_SECRET")?;
        if !secret.is_empty() {
            oauth = oauth.set_client_secret(ClientSecret::new(secret));
        }
        // The crate's documentation says to follow no redirects.
        let http = reqwest::blocking::ClientBuilder::new().redirect(reqwest::redirect::Policy::none()).build()?;
        Ok(Client { oauth, http, verifier: None, state: None, token: None })
    }

    fn authorize(&mut self) -> Result<String> {
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let (url, state) = self
            .oauth
            .authorize_url(CsrfToken::new_random)
            .add_scopes(env::var("SCOPE")?.split(' ').map(|s| Scope::new(s.to_string())))
            .set_pkce_challenge(challenge)
            .url();
        (self.verifier, self.state) = (Some(verifier), Some(state));
        Ok(url.to_string())
    }

    fn exchange(&mut self, redirected: &str) -> Result<String> {
        let redirected = Url::parse(redirected)?;
        let parameter = |name: &str| redirected.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
        if parameter("state") != self.state.take().map(|s| s.secret().clone()) {
            return Err("another state".into());
        }
        let token = self
            .oauth
            .exchange_code(AuthorizationCode::new(parameter("code").ok_or("no code")?))
            .set_pkce_verifier(self.verifier.take().ok_or("no verifier")?)
            .request(&self.http)
            .map_err(describe)?;
        Ok(self.store(token))
    }

    fn call(&self, path: &str) -> Result<String> {
        let url = env::var("ISSUER")? + path;
        let response = self.http.get(url).bearer_auth(self.token()?.access_token().secret()).send()?;
        Ok(response.status().as_u16().to_string())
    }

    fn refresh(&mut self) -> Result<String> {
        let token = self.oauth.exchange_refresh_token(self.refresh_token()?).request(&self.http).map_err(describe)?;
        Ok(self.store(token))
    }

    fn revoke(&self) -> Result<String> {
        let token = StandardRevocableToken::RefreshToken(self.refresh_token()?.clone());
        // The crate revokes tokens only at https addresses. The demo has no TLS, so this function sends the request without TLS.
        let without_tls = |mut request: HttpRequest| {
            let address = request.uri().to_string().replacen("https:", "http:", 1);
            *request.uri_mut() = address.parse().map_err(|e| HttpClientError::Http(oauth2::http::Error::from(e)))?;
            self.http.call(request)
        };
        self.oauth.revoke_token(token)?.request(&without_tls).map_err(describe)?;
        Ok("revoked".to_string())
    }

    fn store(&mut self, token: BasicTokenResponse) -> String {
        self.token.insert(token).access_token().secret().clone()
    }

    fn token(&self) -> Result<&BasicTokenResponse> {
        Ok(self.token.as_ref().ok_or("no token")?)
    }

    fn refresh_token(&self) -> Result<&RefreshToken> {
        Ok(self.token()?.refresh_token().ok_or("no refresh token")?)
    }
}

/// describe adds the server's response to the message of an error.
fn describe<RE: Error + 'static, T: ErrorResponse + 'static>(error: RequestTokenError<RE, T>) -> String {
    match error {
        RequestTokenError::ServerResponse(response) => format!("{response:?}"),
        RequestTokenError::Parse(error, body) => format!("{error}: {}", String::from_utf8_lossy(&body)),
        error => error.to_string(),
    }
}

fn main() -> Result<()> {
    let mut client = Client::new()?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let (command, argument) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = match command {
            "authorize" => client.authorize(),
            "exchange" => client.exchange(argument),
            "call" => client.call(argument),
            "refresh" => client.refresh(),
            "revoke" => client.revoke(),
            _ => Err("unknown command".into()),
        };
        println!("{}", answer.unwrap_or_else(|e| format!("error {e}").replace('\n', " ")));
        io::stdout().flush()?;
    }
    Ok(())
}
