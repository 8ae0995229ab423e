import com.nimbusds.oauth2.sdk.*;
import com.nimbusds.oauth2.sdk.auth.ClientAuthentication;
import com.nimbusds.oauth2.sdk.auth.ClientSecretBasic;
import com.nimbusds.oauth2.sdk.auth.Secret;
import com.nimbusds.oauth2.sdk.http.HTTPRequest;
import com.nimbusds.oauth2.sdk.id.ClientID;
import com.nimbusds.oauth2.sdk.id.State;
import com.nimbusds.oauth2.sdk.pkce.CodeChallengeMethod;
import com.nimbusds.oauth2.sdk.pkce.CodeVerifier;
import com.nimbusds.oauth2.sdk.token.Tokens;
import java.net.URI;

/** A client that uses the OAuth 2.0 SDK of Nimbus. */
class Nimbus implements Client {
    private final ClientID id = new ClientID(CLIENT_ID);
    private final ClientAuthentication authentication = // null for an app without a secret
        CLIENT_SECRET.isEmpty() ? null : new ClientSecretBasic(id, new Secret(CLIENT_SECRET));
    private final CodeVerifier verifier = new CodeVerifier();
    private final State state = new State();
    private Tokens tokens;

    public String authorize() {
        return new AuthorizationRequest.Builder(ResponseType.CODE, id)
            .endpointURI(AUTHORIZE)
            .redirectionURI(URI.create(REDIRECT_URI))
            .scope(Scope.parse(SCOPE))
            .state(state)
            .codeChallenge(verifier, CodeChallengeMethod.S256)
            .build().toURI().toString();
    }

    public String exchange(String redirected) throws Exception {
        var response = AuthorizationResponse.parse(URI.create(redirected));
        if (!response.indicatesSuccess() || !state.equals(response.getState()) || !response.getIssuer().getValue().equals(ISSUER)) {
            throw new GeneralException("not the response to this request");
        }
        var code = response.toSuccessResponse().getAuthorizationCode();
        return request(new AuthorizationCodeGrant(code, URI.create(REDIRECT_URI), verifier));
    }

    private String request(AuthorizationGrant grant) throws Exception {
        var request = authentication == null
            ? new TokenRequest.Builder(TOKEN, id, grant).build()
            : new TokenRequest.Builder(TOKEN, authentication, grant).build();
        var response = TokenResponse.parse(request.toHTTPRequest().send());
        if (!response.indicatesSuccess()) {
            throw new GeneralException(response.toErrorResponse().getErrorObject().toString());
        }
        tokens = response.toSuccessResponse().getTokens();
        return tokens.getAccessToken().getValue();
    }

    public int call(String path) throws Exception {
        var request = new HTTPRequest(HTTPRequest.Method.GET, URI.create(ISSUER + path));
        request.setAuthorization(tokens.getAccessToken().toAuthorizationHeader());
        return request.send().getStatusCode();
    }

    public String refresh() throws Exception {
        return request(new RefreshTokenGrant(tokens.getRefreshToken()));
    }

    public String revoke() throws Exception {
        var request = authentication == null
            ? new TokenRevocationRequest(REVOKE, id, tokens.getRefreshToken())
            : new TokenRevocationRequest(REVOKE, authentication, tokens.getRefreshToken());
        request.toHTTPRequest().send().ensureStatusCode(200);
        return "revoked";
    }

    public static void main(String[] arguments) throws Exception {
        Client.serve(new Nimbus());
    }
}
