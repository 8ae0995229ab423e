package words_test

import (
	"html/template"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/console/pages/words"
)

func TestCount(t *testing.T) {
	for n, want := range map[int64]string{0: "0 requests", 1: "1 request", 999: "999 requests", 1000: "1,000 requests", 1234567: "1,234,567 requests"} {
		if got := words.Count(n, "request"); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}

func TestFunctions(t *testing.T) {
	at := time.Date(2026, 11, 28, 1, 2, 3, 0, time.FixedZone("", -3600*3))
	for text, want := range map[string]string{
		`{{date .At}}`: "28 Nov 2026", `{{exact .At}}`: "28 Nov 2026, 04:02 UTC", `{{iso .At}}`: "2026-11-28T04:02:03Z", `{{title "revoked"}}`: "Revoked",
		`{{title ""}}`: "", `{{count 2 "key"}}`: "2 keys", `{{environment "live"}}, {{environment "sandbox"}}, {{environment "x"}}`: "Production, Sandbox, x",
		`{{range $k, $v := fields "A" 1 "B" 2}}{{$k}}{{$v}}{{end}}`: "A1B2",
	} {
		var b strings.Builder
		if err := template.Must(template.New("").Funcs(words.Functions).Parse(text)).Execute(&b, map[string]any{"At": at}); err != nil || b.String() != want {
			t.Errorf("%s: %q, %v", text, b.String(), err)
		}
	}
	for d, want := range map[time.Duration]string{
		-time.Hour: "just now", time.Minute: "just now", 7 * time.Minute: "7 minutes ago", 90 * time.Minute: "1 hour ago", 47 * time.Hour: "47 hours ago", 49 * time.Hour: "2 days ago",
	} {
		if got := words.Functions["ago"].(func(time.Time) string)(time.Now().Add(-d)); got != want {
			t.Errorf("%v: %s", d, got)
		}
	}
}
