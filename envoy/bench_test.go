package envoy_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/envoy"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/session"
	"github.com/keywicket/keywicket/store/cache"
	"github.com/keywicket/keywicket/test/supabase"
)

// noop is a server that allows every check. It shows the cost of gRPC and the client, without a decision.
type noop struct {
	authv3.UnimplementedAuthorizationServer
}

func (noop) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return &authv3.CheckResponse{Status: &rpcstatus.Status{}}, nil
}

// BenchmarkCheck measures a check over gRPC on loopback, with the built-in policies and a cached answer. The cases are a check with
// a key, a check with a session, and, for comparison, a server that allows every check. cpu-µs/op is the CPU time of the whole
// process, including the client: compare only values from the same machine.
func BenchmarkCheck(b *testing.B) {
	engine, err := policies.Load(b.Context(), policies.Config{})
	if err != nil {
		b.Fatal(err)
	}
	cached := newCache(b, fakeSource{})
	issuer := supabase.Start()
	defer issuer.Close()
	velocity := authz.API{
		Workspace:   authz.WorkspaceHeader{Header: "x-workspace-slug", By: authz.BySlug},
		Credentials: []authz.CredentialFormat{{Kind: authz.KindPersonalKey, Prefix: "velu_"}},
		Session:     authz.SessionFormat{Issuer: supabase.IssuerClaim, JWKSURL: issuer.URL},
	}
	apis := map[string]authz.API{"velocity": velocity}
	sessions, err := session.New(session.Config{APIs: apis, MaxBytes: 1 << 20}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer sessions.Close()
	for ready := false; !ready; time.Sleep(time.Millisecond) {
		_, err := sessions.Ready()
		ready = err == nil
	}
	a, err := authz.New(authz.Config{APIs: apis, DefaultAPI: "velocity", Sessions: sessions}, cached, engine)
	if err != nil {
		b.Fatal(err)
	}

	b.Run("noop", func(b *testing.B) {
		server := grpc.NewServer()
		authv3.RegisterAuthorizationServer(server, noop{})
		measure(b, requestWithCredential("velu_a1b2c3d4e5f6g7h8i9j0"), server.Serve)
		server.Stop()
	})
	for kind, credential := range map[string]string{"key": "velu_a1b2c3d4e5f6g7h8i9j0", "session": issuer.Token("ada", nil)} {
		b.Run(kind, func(b *testing.B) {
			ctx, stop := context.WithCancel(b.Context())
			server := envoy.NewServer(envoy.Config{}, a, slog.New(slog.DiscardHandler))
			measure(b, requestWithCredential(credential), func(l net.Listener) error { return server.Serve(ctx, l) })
			stop()
		})
	}
}

// BenchmarkSource measures a check with a warm cache. The cases differ in the data about the client that Envoy sends: nothing, the
// principal, or the principal and the certificate. In the case certificate-read, a policy also reads the certificate.
func BenchmarkSource(b *testing.B) {
	dir := b.TempDir()
	if err := os.CopyFS(dir, policies.Builtin); err != nil {
		b.Fatal(err)
	}
	rules := filepath.Join(dir, "keywicket", "decision.rego")
	text, err := os.ReadFile(rules)
	if err != nil {
		b.Fatal(err)
	}
	text = bytes.Replace(text, []byte("permitted\n"), []byte("permitted\n\tnot input.source.certificate.uris[0] == \"spiffe://evil\"\n"), 1)
	if err := os.WriteFile(rules, text, 0o600); err != nil {
		b.Fatal(err)
	}
	cached := newCache(b, fakeSource{})
	for _, c := range []struct {
		name string
		dir  string
		peer *authv3.AttributeContext_Peer
	}{
		{"nothing", "", nil},
		{"principal", "", &authv3.AttributeContext_Peer{Principal: "spiffe://acme.example/billing"}},
		{"certificate", "", &authv3.AttributeContext_Peer{Principal: "spiffe://acme.example/billing", Certificate: clientCertificate(b)}},
		{"certificate-read", dir, &authv3.AttributeContext_Peer{Principal: "spiffe://acme.example/billing", Certificate: clientCertificate(b)}},
	} {
		b.Run(c.name, func(b *testing.B) {
			engine, err := policies.Load(b.Context(), policies.Config{Dir: c.dir})
			if err != nil {
				b.Fatal(err)
			}
			a := velocityAuthorizer(b, cached, engine)
			request := requestWithCredential("velu_a1b2c3d4e5f6g7h8i9j0")
			request.Attributes.Source = c.peer
			ctx, stop := context.WithCancel(b.Context())
			server := envoy.NewServer(envoy.Config{}, a, slog.New(slog.DiscardHandler))
			measure(b, request, func(l net.Listener) error { return server.Serve(ctx, l) })
			stop()
		})
	}
}

// clientCertificate returns the certificate of a client, in the form in which Envoy sends it.
func clientCertificate(b *testing.B) string {
	b.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), URIs: []*url.URL{{Scheme: "spiffe", Host: "acme.example", Path: "/billing"}}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		b.Fatal(err)
	}
	return url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

func requestWithCredential(credential string) *authv3.CheckRequest {
	request := requestWithHeaders([2]string{"authorization", "Bearer " + credential}, [2]string{"x-workspace-slug", "acme"})
	request.Attributes.Request.Http.Path = "/api/issues"
	request.Attributes.ContextExtensions = map[string]string{"api": "velocity"}
	return request
}

// velocityAuthorizer returns an authorizer for an API with personal keys.
func velocityAuthorizer(t testing.TB, d authz.Directory, p authz.Policy) *authz.Authorizer {
	t.Helper()
	a, err := authz.New(authz.Config{DefaultAPI: "velocity", CountUse: func(*authz.Principal, bool) {}, APIs: map[string]authz.API{"velocity": {
		Workspace:   authz.WorkspaceHeader{Header: "x-workspace-slug", By: authz.BySlug},
		Credentials: []authz.CredentialFormat{{Kind: authz.KindPersonalKey, Prefix: "velu_"}},
	}}}, d, p)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// newCache returns a cache that stays valid for an hour.
func newCache(t testing.TB, s cache.Source) *cache.Cache {
	t.Helper()
	c, err := cache.New(cache.Config{StalenessBound: time.Hour, MaxAge: time.Hour}, s, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	c.Apply(c.BeginPoll(), cache.Reply{Snapshot: "1:1:", Fingerprint: "w"}, true)
	return c
}

// fakeSource finds every credential except credentialFor[ReasonUnknown]. All credentials belong to the user ada.
type fakeSource struct{}

func (fakeSource) Load(_ context.Context, l authz.Lookup) (cache.Answer, error) {
	scopes := []string{"admin"}
	switch l.Digest {
	case authz.Secret(credentialFor[authz.ReasonUnknown]).Digest():
		return cache.Answer{Keys: cache.CredentialKeys(l), Result: authz.LookupResult{Denial: authz.ReasonUnknown}}, nil
	case authz.Secret(credentialFor[authz.ReasonMissingScope]).Digest():
		scopes = []string{"docs:read"}
	}
	kind := authz.KindPersonalKey
	if l.Kind == authz.KindSession {
		kind = authz.KindSession
	}
	return cache.Answer{Keys: cache.CredentialKeys(l), Result: authz.LookupResult{
		Principal: authz.Principal{
			ID: "1", Kind: kind, API: l.API, Environment: authz.Live, UserID: "ada", SessionID: l.Session.ID, Scopes: scopes,
		},
		Workspace: authz.Membership{ID: "64f1a2b3c4d5e6f7a8b9c0d1", Slug: "acme", Role: "owner"},
	}}, nil
}

func measure(b *testing.B, request *authv3.CheckRequest, serve func(net.Listener) error) {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = serve(listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	client := authv3.NewAuthorizationClient(conn)
	if r, err := client.Check(b.Context(), request); err != nil || r.GetStatus().GetCode() != 0 {
		b.Fatal(r, err)
	}
	b.ReportAllocs()
	before := cpu(b)
	b.ResetTimer()
	for b.Loop() {
		if _, err := client.Check(b.Context(), request); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric((cpu(b)-before)/float64(b.N), "cpu-µs/op")
}

// cpu returns the CPU time of the process in user and system mode, in microseconds.
func cpu(b *testing.B) float64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	micros := func(t syscall.Timeval) float64 { return float64(t.Sec)*1e6 + float64(t.Usec) }
	return micros(u.Utime) + micros(u.Stime)
}

// harnessAllocations is the number of allocations that the test method Server.Bytes itself makes: one for a slice of buffers, and
// one for the function decode.
const harnessAllocations = 2

// BenchmarkBytes measures a check with a warm cache, from the request's wire format to the response's wire format, without gRPC.
// Each check has a different id in its path.
func BenchmarkBytes(b *testing.B) {
	for _, answer := range []authz.Reason{allowedCheck, authz.ReasonUnknown, authz.ReasonMissingScope} {
		b.Run(string(answer), func(b *testing.B) {
			server, messages := warmServer(b, answer)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				server.Bytes(b.Context(), messages[i%len(messages)]).Free()
			}
		})
	}
}

const allowedCheck authz.Reason = "allow"

// warmServer returns a server with the built-in policies and a warm cache, and messages with different ids in their paths. Every
// message gets the answer in the parameter `answer`.
func warmServer(t testing.TB, answer authz.Reason) (*envoy.Server, [][]byte) {
	t.Helper()
	engine, err := policies.Load(t.Context(), policies.Config{})
	if err != nil {
		t.Fatal(err)
	}
	cached := newCache(t, fakeSource{})
	server := envoy.NewServer(envoy.Config{AllowSample: 100}, velocityAuthorizer(t, cached, engine), slog.New(slog.NewJSONHandler(io.Discard, nil)))
	var messages [][]byte
	for range 1000 {
		request := requestWithCredential(credentialFor[answer])
		request.Attributes.Request.Http.Path = "/api/issues/" + rand.Text()
		message, err := proto.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, message)
		reply := server.Bytes(t.Context(), message)
		if text := string(reply.Materialize()); answer != allowedCheck && !strings.Contains(text, string(answer)) {
			t.Fatalf("%s: %q", answer, text)
		}
		reply.Free()
	}
	return server, messages
}

// credentialFor maps an answer to a credential that gets this answer with fakeSource.
var credentialFor = map[authz.Reason]string{
	allowedCheck:             "velu_a1b2c3d4e5f6g7h8i9j0",
	authz.ReasonUnknown:      "velu_unknown4e5f6g7h8i9j0",
	authz.ReasonMissingScope: "velu_weakc3d4e5f6g7h8i9j0",
}
