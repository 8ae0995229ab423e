package scanner_test

import (
	"context"
	"crypto"
	"crypto/elliptic"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/scanner"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/leaked"
)

// FuzzReport checks that the endpoint answers every signed body, without a panic. Either it refuses the body and revokes nothing, or the
// answer has one verdict for each token, with no field but the hash, the type and the label.
func FuzzReport(f *testing.F) {
	keys := newKeyServer(f)
	key := newKey(elliptic.P256())
	keys.publish(map[string]crypto.PublicKey{"current": key.Public()})
	var revoked []authz.Secret
	handler, err := scanner.New(scanner.Config{KeysURL: keys.URL, AddressLimit: 1 << 30}, func(_ context.Context, _ database.Actor, credentials []authz.Secret) ([]leaked.Credential, error) {
		revoked = credentials
		return make([]leaked.Credential, len(credentials)), nil
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	for _, body := range []string{
		bodyOf(never, "velo_0123456789abcdef"), "[]", "", "null", "[null]", `[{"token":"a","type":""}]`, `[{"token":"a","type":"b","token":"c"}]`,
		`[{"token":"\u0000\ud800","type":"b"}]`, "[{\"token\":\"\xff\",\"type\":\"b\"}]", `[[[[[[`, `[{"token":{"token":"a"},"type":1}]`, `[] []`, "\ufeff[]",
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		revoked = nil
		request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(string(body)))
		headers := signedBy("current", key, string(body))
		request.Header.Set(headers[0], headers[1])
		request.Header.Set(headers[2], headers[3])
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, request)
		switch w.Code {
		case http.StatusOK:
			var verdicts []map[string]string
			if err := json.Unmarshal(w.Body.Bytes(), &verdicts); err != nil || len(verdicts) != len(revoked) {
				t.Fatalf("%q: %s, %v", body, w.Body, err)
			}
			for _, v := range verdicts {
				if len(v) != 3 || len(v["token_hash"]) != 64 || v["label"] != "true_positive" {
					t.Errorf("%q: %v", body, v)
				}
			}
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
			if revoked != nil {
				t.Errorf("%q: %d, but tokens were revoked", body, w.Code)
			}
		default:
			t.Errorf("%q: %d", body, w.Code)
		}
	})
}
