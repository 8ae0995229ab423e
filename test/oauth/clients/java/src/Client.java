import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;

/** A client with one library. The protocol between this program and the Go test is in README.md in the parent folder. */
interface Client {
    String ISSUER = System.getenv("ISSUER");
    String CLIENT_ID = System.getenv("CLIENT_ID");
    String CLIENT_SECRET = System.getenv("CLIENT_SECRET");
    String REDIRECT_URI = System.getenv("REDIRECT_URI");
    String SCOPE = System.getenv("SCOPE");

    URI AUTHORIZE = URI.create(ISSUER + "/oauth/consent");
    URI TOKEN = URI.create(ISSUER + "/api/oauth/token");
    URI REVOKE = URI.create(ISSUER + "/api/oauth/revoke");

    String authorize() throws Exception;

    String exchange(String redirected) throws Exception;

    int call(String path) throws Exception;

    String refresh() throws Exception;

    String revoke() throws Exception;

    /** Calls the method of the client that each command names, and prints what the method returns. */
    static void serve(Client client) throws Exception {
        var in = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = in.readLine()) != null;) {
            var words = line.split(" ", 2);
            Object answer;
            try {
                answer = switch (words[0]) {
                    case "authorize" -> client.authorize();
                    case "exchange" -> client.exchange(words[1]);
                    case "call" -> client.call(words[1]);
                    case "refresh" -> client.refresh();
                    case "revoke" -> client.revoke();
                    default -> throw new IllegalArgumentException("unknown command");
                };
            } catch (Exception e) {
                answer = "error " + e;
            }
            System.out.println(answer.toString().replace('\n', ' '));
        }
    }
}
