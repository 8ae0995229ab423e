import static org.springframework.security.oauth2.client.web.client.RequestAttributeClientRegistrationIdResolver.clientRegistrationId;

import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.net.CookieManager;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.util.HashMap;
import org.springframework.boot.SpringBootConfiguration;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.boot.builder.SpringApplicationBuilder;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Import;
import org.springframework.security.config.Customizer;
import org.springframework.security.config.annotation.web.builders.HttpSecurity;
import org.springframework.security.core.context.SecurityContextHolder;
import org.springframework.security.oauth2.client.OAuth2AuthorizeRequest;
import org.springframework.security.oauth2.client.OAuth2AuthorizedClient;
import org.springframework.security.oauth2.client.OAuth2AuthorizedClientManager;
import org.springframework.security.oauth2.client.OAuth2AuthorizedClientProviderBuilder;
import org.springframework.security.oauth2.client.annotation.RegisteredOAuth2AuthorizedClient;
import org.springframework.security.oauth2.client.registration.ClientRegistrationRepository;
import org.springframework.security.oauth2.client.web.DefaultOAuth2AuthorizedClientManager;
import org.springframework.security.oauth2.client.web.OAuth2AuthorizedClientRepository;
import org.springframework.security.oauth2.client.web.client.OAuth2ClientHttpRequestInterceptor;
import org.springframework.security.web.SecurityFilterChain;
import org.springframework.util.LinkedMultiValueMap;
import org.springframework.web.bind.annotation.ExceptionHandler;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.client.RestClient;

/** A web app that uses Spring Security with Spring Boot, and a browser that sends requests to this app. */
class Spring implements Client {
    private final String app;
    private final HttpClient browser = HttpClient.newBuilder().cookieHandler(new CookieManager()).build();

    private Spring(String port) {
        app = "http://127.0.0.1:" + port;
    }

    private HttpResponse<String> open(String address) throws Exception {
        return browser.send(HttpRequest.newBuilder(URI.create(address)).build(), BodyHandlers.ofString());
    }

    private String get(String path) throws Exception {
        var body = open(app + path).body();
        if (body.startsWith("error ")) {
            throw new Exception(body);
        }
        return body;
    }

    public String authorize() throws Exception {
        return open(app + "/oauth2/authorization/keywicket").headers().firstValue("location").orElseThrow();
    }

    public String exchange(String redirected) throws Exception {
        open(redirected);
        return get("/token");
    }

    public int call(String path) throws Exception {
        return Integer.parseInt(get("/call?path=" + path));
    }

    public String refresh() throws Exception {
        return get("/refresh");
    }

    public String revoke() throws Exception {
        return get("/revoke");
    }

    public static void main(String[] arguments) throws Exception {
        var properties = new HashMap<String, Object>();
        var registration = "spring.security.oauth2.client.registration.keywicket.";
        properties.put(registration + "client-id", CLIENT_ID);
        if (CLIENT_SECRET.isEmpty()) {
            properties.put(registration + "client-authentication-method", "none");
        } else {
            properties.put(registration + "client-secret", CLIENT_SECRET);
        }
        properties.put(registration + "authorization-grant-type", "authorization_code");
        properties.put(registration + "redirect-uri", "{baseUrl}/callback");
        properties.put(registration + "scope", SCOPE.replace(' ', ','));
        properties.put("spring.security.oauth2.client.provider.keywicket.issuer-uri", ISSUER);
        properties.put("server.address", "127.0.0.1");
        properties.put("server.port", "0");
        properties.put("spring.main.banner-mode", "off");
        properties.put("logging.level.root", "off"); // the log would go to the standard output
        try (var context = new SpringApplicationBuilder(App.class).properties(properties).run()) {
            Client.serve(new Spring(context.getEnvironment().getProperty("local.server.port")));
        }
    }

    @SpringBootConfiguration
    @EnableAutoConfiguration
    @Import(Controller.class)
    static class App {
        @Bean
        SecurityFilterChain security(HttpSecurity http) throws Exception {
            return http.authorizeHttpRequests(requests -> requests.anyRequest().permitAll())
                .oauth2Client(Customizer.withDefaults())
                .build();
        }
    }

    @RestController
    static class Controller {
        private final RestClient api;
        private final DefaultOAuth2AuthorizedClientManager refreshing;

        Controller(OAuth2AuthorizedClientManager manager, ClientRegistrationRepository registrations, OAuth2AuthorizedClientRepository clients) {
            api = RestClient.builder().baseUrl(ISSUER).requestInterceptor(new OAuth2ClientHttpRequestInterceptor(manager)).build();
            refreshing = new DefaultOAuth2AuthorizedClientManager(registrations, clients);
            // Spring Security refreshes tokens that expire soon. With this clock skew, it refreshes at each request.
            refreshing.setAuthorizedClientProvider(
                OAuth2AuthorizedClientProviderBuilder.builder().refreshToken(refresh -> refresh.clockSkew(Duration.ofDays(1))).build());
        }

        @GetMapping("/token")
        String token(@RegisteredOAuth2AuthorizedClient("keywicket") OAuth2AuthorizedClient client) {
            return client.getAccessToken().getTokenValue();
        }

        @GetMapping("/call")
        int call(@RequestParam String path) {
            return api.get().uri(path).attributes(clientRegistrationId("keywicket"))
                .exchange((request, response) -> response.getStatusCode().value());
        }

        @GetMapping("/refresh")
        String refresh(@RegisteredOAuth2AuthorizedClient("keywicket") OAuth2AuthorizedClient client,
                HttpServletRequest request, HttpServletResponse response) {
            return token(refreshing.authorize(OAuth2AuthorizeRequest.withAuthorizedClient(client)
                .principal(SecurityContextHolder.getContext().getAuthentication())
                .attribute(HttpServletRequest.class.getName(), request)
                .attribute(HttpServletResponse.class.getName(), response).build()));
        }

        // Spring Security has no function that revokes a token.
        @GetMapping("/revoke")
        String revoke(@RegisteredOAuth2AuthorizedClient("keywicket") OAuth2AuthorizedClient client) {
            var form = new LinkedMultiValueMap<String, String>();
            form.add("token", client.getRefreshToken().getTokenValue());
            form.add("client_id", CLIENT_ID);
            form.add("client_secret", CLIENT_SECRET);
            RestClient.create().post().uri(REVOKE).body(form).retrieve().toBodilessEntity();
            return "revoked";
        }

        @ExceptionHandler(Exception.class)
        String error(Exception e) {
            return "error " + e;
        }
    }
}
