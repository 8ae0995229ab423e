package envoy_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/envoy"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/store/cache"
)

// oneTokenSource finds only the token with this digest. The token belongs to Ada. All other tokens are unknown.
type oneTokenSource struct{ digest authz.Digest }

func (s oneTokenSource) Load(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
	if l.Digest != s.digest {
		return cache.Answer{Result: authz.LookupResult{Denial: authz.ReasonUnknown}, Keys: cache.CredentialKeys(l)}, nil
	}
	return fakeSource{}.Load(ctx, l)
}

// Strings of a request are substrings of the whole message, which contains the token. The caches and the metrics must not retain
// such a string, because it would keep the whole message in memory.
func TestMessageBytesAreNotRetained(t *testing.T) {
	const n, padding = 2000, 50_000 // 100 MB in total
	engine, err := policies.Load(t.Context(), policies.Config{})
	if err != nil {
		t.Fatal(err)
	}
	adasToken := "velu_a1b2c3d4e5f6g7h8i9j0"
	for name, token := range map[string]func(i int) string{
		"unknown tokens":               func(i int) string { return fmt.Sprintf("velu_%020d", i) },
		"one token in many workspaces": func(int) string { return adasToken },
	} {
		cached := newCache(t, oneTokenSource{authz.Secret(adasToken).Digest()})
		var observed []authz.Answer
		a := velocityAuthorizer(t, cached, engine)
		server := envoy.NewServer(envoy.Config{Observe: func(answer authz.Answer) { // like the metrics
			observed = append(observed, authz.Answer{API: answer.API, Decision: authz.Decision{Code: answer.Code, Reason: answer.Reason}})
		}}, a, slog.New(slog.DiscardHandler))
		before := heap()
		for i := range n {
			message, err := proto.Marshal(&authv3.CheckRequest{Attributes: &authv3.AttributeContext{
				ContextExtensions: map[string]string{"api": "velocity"},
				Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
					Method: http.MethodGet, Path: fmt.Sprint("/api/issues/", i),
					HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
						{Key: "authorization", RawValue: []byte("Bearer " + token(i))}, {Key: "x-workspace-slug", RawValue: fmt.Append(nil, "w", i)},
						{Key: "x-padding", RawValue: []byte(strings.Repeat("p", padding))},
					}},
				}},
			}})
			if err != nil {
				t.Fatal(err)
			}
			server.Bytes(t.Context(), message).Free()
		}
		if grown := heap() - before; grown > n*padding/5 {
			t.Errorf("%s: %d MB of %d MB are retained", name, grown>>20, n*padding>>20)
		}
		runtime.KeepAlive(observed)
	}
}

// heap returns the size of the live heap, in bytes.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // a sync.Pool frees its objects in the second collection
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
