package scanner_test

import (
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/scanner"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

const never authz.Secret = "sk_live_neverissuedneverissuedneverissued1234567"

// A report revokes keys and grants, and names the scanner in the audit log. The answer has the hash of each token and no token. The
// log has neither. A repeated report changes nothing, and gets the same answer.
func TestReportRevokesTokens(t *testing.T) {
	f := newFixture(t, nil)
	token, key := f.WorkspaceToken(t, "inbox:read")
	old, oldKey := f.UserToken(t, "issues:read")
	storetest.Must(f.RevokeToken(t.Context(), old.ID))
	good, _ := f.WorkspaceToken(t, "inbox:read")
	pair := f.ExchangeCode(t, f.NewCode(t))
	for range 2 {
		a := f.report(t, key, never, pair.Access, oldKey)
		if a.status != http.StatusOK || a.labels() != "true_positive false_positive true_positive true_positive" {
			t.Fatalf("%+v", a)
		}
		hash := sha256.Sum256([]byte(key.Reveal()))
		if v := a.verdicts[0]; v["token_hash"] != hex.EncodeToString(hash[:]) || v["token_type"] != "my_type" || len(v) != 3 {
			t.Errorf("%v", v)
		}
		for _, secret := range []authz.Secret{key, never, pair.Access, oldKey} {
			if strings.Contains(a.text+f.log.String(), secret.Reveal()) || strings.Contains(f.log.String(), "octocat") {
				t.Errorf("the answer or the log has a token or its place: %s", f.log.String())
			}
		}
	}
	for _, counts := range []string{`"reported":4,"revoked":2,"already_revoked":1,"unknown":1`, `"reported":4,"revoked":0,"already_revoked":3,"unknown":1`} {
		if !f.log.Contains(counts)() {
			t.Errorf("the log has no %s: %s", counts, f.log.String())
		}
	}
	if got := storetest.Must(f.Token(t.Context(), token.ID)); got.RevokedReason == nil || *got.RevokedReason != "leaked" {
		t.Errorf("%+v", got)
	}
	if got := storetest.Must(f.Token(t.Context(), good.ID)); got.Status != registry.Active {
		t.Errorf("another token: %+v", got)
	}
	if _, err := f.RefreshToken(t, pair.Refresh); err == nil {
		t.Error("the refresh token still works")
	}
	if entries := storetest.Value[string](t, f.DB, `
		SELECT string_agg(concat_ws(' ', object_kind, actor_kind, actor_id, source, after->>'revoked_reason'), '; ' ORDER BY id)
		FROM keywicket.audit_log WHERE action = 'revoke' AND object_id <> $1`, old.ID); entries != "token scanner 127.0.0.1 127.0.0.1/32 leaked; grant scanner 127.0.0.1 127.0.0.1/32 leaked" {
		t.Errorf("the audit log has %s", entries)
	}
	if n := f.keys.fetches.Load(); n != 1 {
		t.Errorf("the keys were fetched %d times", n)
	}
}

// A request without a valid signature causes no look-up, and all such requests get the same answer.
func TestUnsignedReportIsRefused(t *testing.T) {
	f := newFixture(t, nil)
	_, key := f.WorkspaceToken(t, "inbox:read")
	other, other384 := newKey(elliptic.P256()), newKey(elliptic.P384())
	body := bodyOf(key)
	signed := signedBy("current", f.key, body)
	answers := make(map[string]bool)
	for name, headers := range map[string][]string{
		"no headers":                   nil,
		"no id":                        signed[2:],
		"no signature":                 signed[:2],
		"an empty signature":           {idHeader, "current", signatureHeader, ""},
		"two ids":                      append([]string{idHeader, "other"}, signed...),
		"two signatures":               append([]string{signatureHeader, signed[3]}, signed...),
		"not base64":                   {idHeader, "current", signatureHeader, "%" + signed[3]},
		"another encoding":             {idHeader, "current", signatureHeader, hex.EncodeToString(storetest.Must(base64.StdEncoding.DecodeString(signed[3])))},
		"not DER":                      {idHeader, "current", signatureHeader, base64.StdEncoding.EncodeToString(make([]byte, 64))},
		"another key":                  signedBy("current", other, body),
		"an unknown key":               signedBy("made-up", other, body),
		"an unpublished curve":         signedBy("current", other384, body),
		"a signature for another body": signedBy("current", f.key, bodyOf(never)),
		"a signature for other spaces": signedBy("current", f.key, strings.TrimSpace(body)),
	} {
		a := f.send(t, body, headers...)
		if a.status != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", name, a.status, a.text)
		}
		answers[a.text] = true
	}
	if len(answers) != 1 || f.calls.Load() != 0 {
		t.Errorf("%d answers, %d look-ups", len(answers), f.calls.Load())
	}
	if a := f.send(t, body, signed...); a.status != http.StatusOK || a.labels() != "true_positive" {
		t.Errorf("the valid signature: %+v", a)
	}
}

// A body that is not in GitHub's form is refused as a whole. The answer has nothing of the body.
func TestMalformedReportIsRefused(t *testing.T) {
	f := newFixture(t, nil)
	_, key := f.WorkspaceToken(t, "inbox:read")
	item := strings.Trim(strings.TrimSpace(bodyOf(key)), "[]")
	for _, body := range []string{
		"", "null", "{}", item, "[" + item, "[" + item + ",]", "[" + item + "] x", "[" + item + "][]", "[" + item + ",{}]", `["` + key.Reveal() + `"]`,
		`[{"token":"` + key.Reveal() + `"}]`, `[{"token":null,"type":"a"}]`, `[{"token":"","type":"a"}]`, `[{"token":["` + key.Reveal() + `"],"type":"a"}]`,
		`[{"token":"` + key.Reveal() + `","token":"x","type":"a"}]`, `[{"Token":"` + key.Reveal() + `","type":"a"}]`, "[{\"token\":\"\xff\",\"type\":\"a\"}]",
		"[" + strings.Repeat(`{"token":"x","type":"a"},`, 5000) + item + "]",
	} {
		a := f.send(t, body, signedBy("current", f.key, body)...)
		if a.status != http.StatusBadRequest || strings.Contains(a.text, key.Reveal()) {
			t.Errorf("%.80s: %d %s", body, a.status, a.text)
		}
	}
	if f.calls.Load() != 0 {
		t.Errorf("%d look-ups", f.calls.Load())
	}
	if a := f.report(t); a.status != http.StatusOK || strings.TrimSpace(a.text) != "[]" {
		t.Errorf("an empty list: %+v", a)
	}
}

// A long list in one request works. A body over the limit is refused before its end.
func TestSizeOfReport(t *testing.T) {
	f := newFixture(t, nil)
	_, key := f.WorkspaceToken(t, "inbox:read")
	tokens := make([]authz.Secret, 4000)
	for i := range tokens {
		tokens[i] = authz.Secret(fmt.Sprintf("sk_live_%040d", i))
	}
	tokens[3999] = key
	a := f.report(t, tokens...)
	if a.status != http.StatusOK || len(a.verdicts) != 4000 || a.verdicts[3999]["label"] != "true_positive" || a.verdicts[0]["label"] != "false_positive" {
		t.Errorf("%d, %d verdicts", a.status, len(a.verdicts))
	}
	body := strings.Repeat(" ", 1<<20) + bodyOf(key)
	if a := f.send(t, body, signedBy("current", f.key, body)...); a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("%d %s", a.status, a.text)
	}
}

func TestAddressLimit(t *testing.T) {
	f := newFixture(t, func(c *scanner.Config) { c.AddressLimit = 2 })
	body := bodyOf(never)
	send := func(address string) answer {
		return f.send(t, body, append(signedBy("current", f.key, body), "X-Envoy-External-Address", address)...)
	}
	for want := range 3 {
		a := send("192.0.2.1")
		if limited := a.status == http.StatusTooManyRequests; limited != (want == 2) || limited != (a.header.Get("Retry-After") != "") {
			t.Errorf("request %d: %d", want, a.status)
		}
	}
	if a := send("192.0.2.2"); a.status != http.StatusOK {
		t.Errorf("another address: %d", a.status)
	}
}

// Reports of the same tokens at the same time all succeed. Each token is revoked once.
func TestReportsAtTheSameTime(t *testing.T) {
	f := newFixture(t, nil)
	var keys []authz.Secret
	for range 30 {
		_, key := f.WorkspaceToken(t, "inbox:read")
		keys = append(keys, key)
	}
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			if a := f.report(t, keys...); a.status != http.StatusOK || a.labels() != strings.TrimSpace(strings.Repeat("true_positive ", len(keys))) {
				t.Errorf("%d %s", a.status, a.text)
			}
		})
	}
	group.Wait()
	if n := storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.audit_log WHERE action = 'revoke'`); n != len(keys) {
		t.Errorf("%d revocations", n)
	}
	if n := f.keys.fetches.Load(); n != 1 {
		t.Errorf("the keys were fetched %d times", n)
	}
}

// If the database cannot revoke, the answer is 503, and the scanner has to send the report again. No verdict is sent.
func TestDatabaseFailure(t *testing.T) {
	f := newFixture(t, nil)
	_, key := f.WorkspaceToken(t, "inbox:read")
	f.Exec(t, `ALTER FUNCTION keywicket.revoke_leaked(bytea[]) RENAME TO x`)
	a := f.report(t, key)
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || strings.Contains(a.text, "function") {
		t.Errorf("%+v", a)
	}
	if log := f.log.String(); !strings.Contains(log, `"level":"ERROR"`) || strings.Contains(log, key.Reveal()) {
		t.Errorf("the log is %s", log)
	}
	f.Exec(t, `ALTER FUNCTION keywicket.x(bytea[]) RENAME TO revoke_leaked`)
	if a := f.report(t, key); a.labels() != "true_positive" {
		t.Errorf("%+v", a)
	}
}

func TestURLOfKeys(t *testing.T) {
	for url, valid := range map[string]bool{
		"https://api.github.com/meta/public_keys/secret_scanning": true, "http://127.0.0.1:1/keys": true, "http://[::1]/": true, "http://localhost/": true,
		"": false, "http://api.github.com/": false, "ftp://127.0.0.1/": false, "https:///keys": false, "https://:443/": false, "keys": false, "https://a b/": false, "http://127.0.0.1.example/": false,
	} {
		if _, err := scanner.New(scanner.Config{KeysURL: url}, nil, slog.New(slog.DiscardHandler)); (err == nil) != valid || err != nil && !strings.HasPrefix(err.Error(), "keys_url: ") {
			t.Errorf("%q: %v", url, err)
		}
	}
}
