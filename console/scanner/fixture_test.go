package scanner_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/scanner"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/leaked"
	"github.com/keywicket/keywicket/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// keyServer publishes public keys as GitHub does.
type keyServer struct {
	*httptest.Server
	mu      sync.Mutex
	keys    map[string]crypto.PublicKey // by id
	fails   bool
	fetches atomic.Int64
}

func newKeyServer(t testing.TB) *keyServer {
	k := &keyServer{keys: make(map[string]crypto.PublicKey)}
	k.Server = httptest.NewServer(k)
	t.Cleanup(k.Close)
	return k
}

func (k *keyServer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	k.fetches.Add(1)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fails {
		http.Error(w, "unavailable", http.StatusServiceUnavailable)
		return
	}
	type entry struct {
		ID      string `json:"key_identifier"`
		Key     string `json:"key"`
		Current bool   `json:"is_current"`
	}
	list := []entry{}
	for id, key := range k.keys {
		der := storetest.Must(x509.MarshalPKIXPublicKey(key))
		list = append(list, entry{id, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), id == "current"})
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"public_keys": list})
}

// publish replaces the published keys.
func (k *keyServer) publish(keys map[string]crypto.PublicKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys = keys
}

func (k *keyServer) setFails(fails bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fails = fails
}

func newKey(curve elliptic.Curve) *ecdsa.PrivateKey {
	return storetest.Must(ecdsa.GenerateKey(curve, rand.Reader))
}

// fixture is the endpoint with the console's login, and a scanner with a key.
type fixture struct {
	*storetest.GrantFixture
	url  string
	keys *keyServer
	key  *ecdsa.PrivateKey // its id is "current"
	log  storetest.Log
	// clock is the time that has passed according to the endpoint's clock. calls counts calls of the database.
	clock, calls atomic.Int64
}

func newFixture(t *testing.T, change func(*scanner.Config)) *fixture {
	t.Helper()
	f := &fixture{GrantFixture: storetest.NewGrantFixture(t), keys: newKeyServer(t), key: newKey(elliptic.P256())}
	f.keys.publish(map[string]crypto.PublicKey{"current": f.key.Public()})
	store := storetest.Must(console.Open(storetest.WithOption(f.URL, "role", "keywicket_console")))
	t.Cleanup(func() { _ = store.Close() })
	c := scanner.Config{KeysURL: f.keys.URL + "/keys?secret=hunter2", AddressLimit: 1000, Now: func() time.Time {
		return time.Unix(1_800_000_000, f.clock.Load())
	}}
	if change != nil {
		change(&c)
	}
	handler, err := scanner.New(c, func(ctx context.Context, a database.Actor, credentials []authz.Secret) ([]leaked.Credential, error) {
		f.calls.Add(1)
		return leaked.Revoke(ctx, store.Registry, a, credentials)
	}, f.log.Logger())
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	f.url = server.URL
	return f
}

// answer is the endpoint's answer.
type answer struct {
	status   int
	header   http.Header
	text     string
	verdicts []map[string]string
}

// labels returns the labels of the verdicts, in order.
func (a answer) labels() string {
	var labels []string
	for _, v := range a.verdicts {
		labels = append(labels, v["label"])
	}
	return strings.Join(labels, " ")
}

// send sends a body with the headers. The keys and values of the headers alternate.
func (f *fixture) send(t testing.TB, body string, headers ...string) answer {
	t.Helper()
	request := storetest.Must(http.NewRequestWithContext(t.Context(), http.MethodPost, f.url, strings.NewReader(body)))
	for pair := range slices.Chunk(headers, 2) {
		request.Header.Add(pair[0], pair[1])
	}
	response := storetest.Must(http.DefaultClient.Do(request)) //nolint:bodyclose // closed below
	defer func() { _ = response.Body.Close() }()
	a := answer{status: response.StatusCode, header: response.Header, text: string(storetest.Must(io.ReadAll(response.Body)))}
	if a.status == http.StatusOK {
		if err := json.Unmarshal([]byte(a.text), &a.verdicts); err != nil {
			t.Fatalf("%v: %s", err, a.text)
		}
	}
	return a
}

const (
	idHeader        = "Github-Public-Key-Identifier"
	signatureHeader = "Github-Public-Key-Signature"
)

// signedBy returns the headers of a body that is signed with the key.
func signedBy(id string, key *ecdsa.PrivateKey, body string) []string {
	digest := sha256.Sum256([]byte(body))
	signature := storetest.Must(ecdsa.SignASN1(rand.Reader, key, digest[:]))
	return []string{idHeader, id, signatureHeader, base64.StdEncoding.EncodeToString(signature)}
}

// report sends a list of tokens, signed with the scanner's key.
func (f *fixture) report(t testing.TB, tokens ...authz.Secret) answer {
	t.Helper()
	body := bodyOf(tokens...)
	return f.send(t, body, signedBy("current", f.key, body)...)
}

// bodyOf returns a list of tokens in GitHub's form.
func bodyOf(tokens ...authz.Secret) string {
	items := make([]map[string]string, len(tokens))
	for i, token := range tokens {
		items[i] = map[string]string{"token": token.Reveal(), "type": "my_type", "url": "https://github.com/octocat/Hello-World/blob/1/foo.txt", "source": "content"}
	}
	var body bytes.Buffer
	_ = json.NewEncoder(&body).Encode(items)
	return body.String()
}
