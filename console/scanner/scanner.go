// Package scanner is the endpoint for secret scanners. A scanner such as GitHub's finds tokens in public places, and sends a signed
// list of them. The endpoint revokes these tokens. The form is that of GitHub's secret scanning partner program
// (docs.github.com, "Secret scanning partner program").
package scanner

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/ratelimit"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/leaked"
)

// The limits of a request.
const (
	maxBody   = 1 << 20 // bytes: a few thousand tokens
	maxTokens = 5000    // tokens
)

// Revoke revokes leaked credentials on behalf of the actor. The results are in the order of the credentials. [leaked.Revoke] has the
// details.
type Revoke func(ctx context.Context, a database.Actor, credentials []authz.Secret) ([]leaked.Credential, error)

// Config is the configuration of the endpoint.
type Config struct {
	// KeysURL is the URL of the scanner's public keys. GitHub's URL is https://api.github.com/meta/public_keys/secret_scanning.
	KeysURL string
	// KeysMaxAge is the maximum time for which a key stays trusted after the scanner has withdrawn it. Default: 24 hours.
	KeysMaxAge time.Duration
	// AddressLimit is the maximum number of requests per minute from one client address. Default: 60.
	AddressLimit int
	// Now is the clock. Default: time.Now.
	Now func() time.Time
}

type scanner struct {
	keys      *keyring
	addresses *ratelimit.Limits
	actor     string
	revoke    Revoke
	log       *slog.Logger
}

// New returns the handler of the endpoint's POST requests. It fetches the keys when it needs them.
func New(c Config, revoke Revoke, log *slog.Logger) (http.Handler, error) {
	u, err := url.Parse(c.KeysURL)
	isLoopback := err == nil && slices.Contains([]string{"127.0.0.1", "::1", "localhost"}, u.Hostname())
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && (u.Scheme != "http" || !isLoopback) {
		return nil, errors.New("keys_url: not an https URL, such as https://api.github.com/meta/public_keys/secret_scanning; http is only for 127.0.0.1, [::1] and localhost")
	}
	if c.KeysMaxAge == 0 {
		c.KeysMaxAge = 24 * time.Hour
	}
	if c.AddressLimit == 0 {
		c.AddressLimit = 60
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &scanner{newKeyring(c), ratelimit.New(c.AddressLimit), u.Hostname(), revoke, log}, nil
}

// refusal is the error for a request that is not processed. Its text is for the scanner's log, and contains nothing of the request.
type refusal struct {
	status  int
	message string
}

func (r refusal) Error() string { return r.message }

// errUnsigned is deliberately the same for an unknown key and a wrong signature.
var errUnsigned = refusal{http.StatusUnauthorized, "the signature is missing, or no key of the scanner has made it"}

// ServeHTTP implements [http.Handler].
func (s *scanner) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	verdicts, err := s.receive(w, r)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(verdicts) // an error means that the scanner has closed the connection
}

func (s *scanner) refuse(w http.ResponseWriter, r *http.Request, err error) {
	refused, ok := errors.AsType[refusal](err)
	if !ok {
		refused = refusal{http.StatusServiceUnavailable, "the server cannot process the tokens at the moment: send them again later"}
		s.log.LogAttrs(r.Context(), slog.LevelError, "leaked tokens could not be processed: ask the scanner to send them again", slog.Any("error", err))
	}
	if refused.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "60")
	}
	http.Error(w, refused.message, refused.status)
}

// receive verifies the request, and revokes the tokens in it. Without a valid signature, it looks nothing up in the database.
func (s *scanner) receive(w http.ResponseWriter, r *http.Request) ([]verdict, error) {
	address := ratelimit.Address(r)
	if wait := s.addresses.Take(address); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
		return nil, refusal{http.StatusTooManyRequests, "too many requests from this address"}
	}
	id, signature, err := signatureOf(r.Header)
	if err != nil {
		return nil, err
	}
	key, err := s.keys.find(r.Context(), id)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if _, tooLong := errors.AsType[*http.MaxBytesError](err); tooLong {
		return nil, refusal{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is longer than %d bytes: send fewer tokens in a request", maxBody)}
	}
	if err != nil {
		return nil, refusal{http.StatusBadRequest, "the body is incomplete"}
	}
	digest := sha256.Sum256(body)
	if !ecdsa.VerifyASN1(key, digest[:], signature) {
		return nil, errUnsigned
	}
	findings, err := parse(body)
	if err != nil {
		return nil, refusal{http.StatusBadRequest, err.Error()}
	}
	tokens := make([]authz.Secret, len(findings))
	for i, f := range findings {
		tokens[i] = f.token
	}
	actor := database.Actor{Kind: database.ActorScanner, ID: s.actor, Source: address}
	results, err := s.revoke(r.Context(), actor, tokens)
	s.logResults(r.Context(), len(tokens), results)
	if err != nil {
		return nil, err
	}
	return verdictsOf(findings, results), nil
}

// signatureOf returns the id of the key and the signature, from a request's headers.
func signatureOf(h http.Header) (id string, signature []byte, err error) {
	ids, signatures := h.Values("Github-Public-Key-Identifier"), h.Values("Github-Public-Key-Signature")
	if len(ids) != 1 || len(signatures) != 1 || ids[0] == "" {
		return "", nil, errUnsigned
	}
	signature, err = base64.StdEncoding.Strict().DecodeString(signatures[0])
	if err != nil {
		return "", nil, errUnsigned
	}
	return ids[0], signature, nil
}

// logResults logs what became of the tokens. It logs no token, and no place where a token was found, because the place may contain
// the token. The audit log has an entry for each revoked token.
func (s *scanner) logResults(ctx context.Context, reported int, results []leaked.Credential) {
	counts := make(map[leaked.Result]int)
	for _, c := range results {
		counts[c.Result]++
	}
	s.log.LogAttrs(ctx, slog.LevelWarn, "a secret scanner reported leaked tokens", slog.String("scanner", s.actor), slog.Int("reported", reported),
		slog.Int("revoked", counts[leaked.Revoked]), slog.Int("already_revoked", counts[leaked.AlreadyRevoked]), slog.Int("unknown", counts[leaked.Unknown]))
}
