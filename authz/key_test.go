package authz_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math"
	"math/big"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
)

func TestNewKey(t *testing.T) {
	for prefix, body := range map[string]int{"sk_live_": 40, "sk_test_": 40, "vel_": 38, "velu_": 38} {
		f := authz.CredentialFormat{Prefix: prefix, BodyLength: body, VisiblePrefix: len(prefix) + 8}
		seen := make(map[authz.Secret]bool)
		for range 1000 {
			key := f.NewKey()
			text := key.Reveal()
			if !strings.HasPrefix(text, prefix) || len(text) != len(prefix)+body {
				t.Fatalf("a key of %d characters", len(text))
			}
			if strings.Trim(text[len(prefix):], "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") != "" {
				t.Fatal("a character outside base62")
			}
			if bits := float64(body-6) * math.Log2(62); bits < 190 {
				t.Fatalf("%.0f random bits", bits)
			}
			// Compute the checksum independently of the code. In the base62 of big.Int, lower-case letters come before capitals.
			sum := big.NewInt(int64(crc32.ChecksumIEEE([]byte(text[:len(text)-6])))).Text(62)
			if want := strings.Repeat("0", 6-len(sum)) + swapCase(sum); text[len(text)-6:] != want {
				t.Fatalf("checksum %s, want %s", text[len(text)-6:], want)
			}
			if visible := f.Visible(key); visible != text[:len(prefix)+8] {
				t.Fatalf("visible %s", visible)
			}
			if seen[key] {
				t.Fatal("a key is repeated")
			}
			seen[key] = true
		}
	}
}

func swapCase(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z':
			return r - 'A' + 'a'
		}
		return r
	}, s)
}

// All base62 characters have the same probability. Chi-squared with 61 degrees of freedom is below 130 in all but 1 of 10^6 runs.
func TestNewKeyIsUniform(t *testing.T) {
	f := authz.CredentialFormat{Prefix: "k_", BodyLength: 38}
	counts := make(map[byte]float64)
	const keys, random = 5000, 32
	for range keys {
		for _, c := range []byte(f.NewKey().Reveal()[2 : 2+random]) {
			counts[c]++
		}
	}
	expected, chi := float64(keys*random)/62, 0.0
	for _, n := range counts {
		chi += (n - expected) * (n - expected) / expected
	}
	if len(counts) != 62 || chi > 130 {
		t.Fatalf("%d characters, chi-squared %.0f", len(counts), chi)
	}
}

func TestSecretIsNotPrinted(t *testing.T) {
	const secret = authz.Secret("sk_live_tellnobody")
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "secret", secret, "in", struct{ S authz.Secret }{secret})
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "secret", secret, "in", []authz.Secret{secret})
	out, err := json.Marshal(map[string]authz.Secret{"key": secret})
	if err != nil {
		t.Fatal(err)
	}
	printed := fmt.Sprintf("%v %s %+v %#v %q %v %#v", secret, secret, secret, secret, secret, []authz.Secret{secret}, []authz.Secret{secret})
	for _, text := range []string{log.String(), string(out), printed} {
		if strings.Contains(text, "tellnobody") || !strings.Contains(text, "[secret]") {
			t.Errorf("printed: %s", text)
		}
	}
	if secret.Reveal() != "sk_live_tellnobody" {
		t.Error("Reveal does not return the secret")
	}
}

// Accepts returns true exactly for the keys that a check looks up.
func TestAcceptsKeysThatACheckLooksUp(t *testing.T) {
	f := authz.CredentialFormat{Kind: authz.KindWorkspaceToken, Prefix: "sk_live_"}
	for _, text := range []string{
		validKey, "sk_live_", "sk_live_" + strings.Repeat("a", 15), "sk_live_" + strings.Repeat("a", 16),
		"sk_live_" + strings.Repeat("a", 504), "sk_live_" + strings.Repeat("a", 505), "sk_test_" + strings.Repeat("a", 40),
		"sk_live_aaaaaaaaaaaaaaa=a", "sk_live_aaaaaaaaaaaaaaaa=", "sk_live_aaaaaaaa aaaaaaaa", "sk_live_aaaaaaaaaaaaaaaé", "",
	} {
		d := &directory{found: acme}
		a := newAuthorizer(t, config(), d, &policy{decide: principalsOnly})
		if _, err := a.Check(t.Context(), getRequest("velaflows", "/thing", withAuthorization("Bearer "+text))); err != nil {
			t.Fatal(err)
		}
		if got, want := f.Accepts(authz.Secret(text)), len(d.lookups) == 1; got != want {
			t.Errorf("%q is accepted: %v, looked up: %v", text, got, want)
		}
	}
}
