package mask_test

import (
	"testing"

	"github.com/keywicket/keywicket/authz/mask"
	"github.com/keywicket/keywicket/service/config"
)

// A key pasted in the wrong place must not appear in the scrollback of a terminal or in a log.
func TestKeysAreShortened(t *testing.T) {
	const key = "sk_live_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7r8s9t0"
	if got := mask.Arguments("unexpected argument "+key, []string{"token", "list", key}); got != "unexpected argument sk_live_…" {
		t.Error(got)
	}
	if got := mask.Arguments(`but got "`+key+`"`, []string{"--limit=" + key}); got != `but got "sk_live_…"` {
		t.Error(got)
	}
	cfg, err := config.Load("", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		`no workspace "` + key + `"`:                        `no workspace "sk_live_a1b2c3d4…"`,
		`no workspace "64f1a2b3c4d5e6f7a8b9c0d1"`:           `no workspace "64f1a2b3c4d5e6f7a8b9c0d1"`,
		"no user eyJhbGciOiJFUzI1NiJ9.e30.c2ln":             "no user eyJ…",
		"/etc/keywicket/vel_or_not.yaml: prefixes are vel_": "/etc/keywicket/vel_or_not.yaml: prefixes are vel_",
	} {
		if got := mask.Keys(cfg.APIs, text); got != want {
			t.Error(got)
		}
	}
	if got := mask.Arguments("unknown flag --frobnicate", []string{"--frobnicate"}); got != "unknown flag --frobnicate" {
		t.Error(got)
	}
}
