package oauth

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/harness"
)

// The browser sends all cookies of the product's host to the consent page, also the cookies of other programs on the host. Over
// HTTP/2, the client splits the header into one field for each cookie (RFC 9113, section 8.2.3).
func TestConsentPageTakesManyCookies(t *testing.T) {
	t.Parallel()
	d := startDemo(t)
	a := harness.RegisterApp(t, d.Stack)
	ada := harness.Keywicket[[]registry.User](t, d.Stack, "user", "list")
	token, err := d.SignIn.Token(ada[0].ID, "a-session", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cookies := make([]string, 0, 130)
	for n := range 128 {
		cookies = append(cookies, fmt.Sprintf("analytics-%03d=%s", n, strings.Repeat("x", 384-16))) // 48 KiB in total
	}
	cookies = append(cookies, "sb-demo-auth-token="+token)
	ask := d.Velocity + "/oauth/consent?client_id=" + a.ID + "&redirect_uri=" + harness.AppAddress +
		"&response_type=code&scope=issues:read&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256"
	http1, http2 := new(http.Protocols), new(http.Protocols)
	http1.SetHTTP1(true)
	http2.SetUnencryptedHTTP2(true)
	for name, protocols := range map[string]*http.Protocols{"HTTP/1.1": http1, "HTTP/2.0": http2} {
		transport := &http.Transport{Protocols: protocols}
		t.Cleanup(transport.CloseIdleConnections)
		r := harness.Get(t, &http.Client{Transport: transport}, ask, "Cookie", strings.Join(cookies, "; "))
		if r.Status != http.StatusOK || !strings.Contains(r.Body, "Allow <bdi>Planner</bdi>") {
			t.Errorf("%s: %d %.300s", name, r.Status, r.Body)
		}
	}
}
