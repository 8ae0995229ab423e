package demo_test

import (
	"bytes"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/demo"
)

// summary returns what PrintSummary writes. With one line of the command and one of make, `make demo` prints at most 25 lines.
func summary(t *testing.T, d *demo.Demo) string {
	t.Helper()
	var out bytes.Buffer
	if err := d.PrintSummary(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	limit := 23 // with one line of `make` and one of the command, `make demo` prints at most 25 lines
	if strings.Contains(out.String(), "The tour of the samples does not apply") {
		limit += 6 // each request may need a second line
	}
	if len(lines) > limit {
		t.Errorf("%d lines", len(lines))
	}
	return out.String()
}

// fits checks that no line is wider than a terminal of 100 columns, except the line with the database URL.
func fits(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if len(line) > 101 && !strings.HasPrefix(line, "export KEYWICKET_DATABASE_URL=") {
			t.Errorf("%d columns: %s", len(line)-1, line)
		}
	}
}

// paste runs each request of the summary in a shell, as a user who pastes it. The response must be the one in the comment above the
// request. It returns the number of requests.
func paste(t *testing.T, text string) (n int) {
	t.Helper()
	_, rest, _ := strings.Cut(text, "\n\n")
	block, _, _ := strings.Cut(rest, "\n\n")
	for _, request := range strings.Split(strings.TrimPrefix(block, "# "), "\n# ") {
		comment, command, _ := strings.Cut(request, "\n")
		want, _, ok := strings.Cut(comment, ": ")
		words := strings.Fields(want)
		if !ok || len(words) == 0 || strings.ContainsAny(comment, "'\"`$()") { // a shell without comments would read them
			t.Errorf("the comment %q", comment)
			continue
		}
		n++
		out, err := exec.CommandContext(t.Context(), "sh", "-e", "-c", command).CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("HTTP/1.1 "+words[0]+" ")) {
			t.Errorf("%v, not %s, for\n%s\n%s", err, want, command, out)
		}
		for _, word := range words[1:] {
			if !bytes.Contains(out, []byte(`"`+word+`"`)) {
				t.Errorf("no %s in the response of\n%s\n%s", word, command, out)
			}
		}
	}
	// A user can also paste all requests at once.
	out, err := exec.CommandContext(t.Context(), "sh", "-e", "-c", block).CombinedOutput()
	if got := bytes.Count(out, []byte("HTTP/1.1 ")); err != nil || got != n {
		t.Errorf("%v, %d responses in\n%s", err, got, out)
	}
	return n
}

func summaryWorks(t *testing.T, d *demo.Demo) {
	text := summary(t, d)
	fits(t, text)
	t.Logf("\n%s", text)
	if n := paste(t, text); n != 6 {
		t.Errorf("%d requests", n)
	}
	if !strings.Contains(text, "VelaFlows at "+d.VelaFlows) || !strings.Contains(text, "Velocity at "+d.Velocity) {
		t.Errorf("an address is missing in\n%s", text)
	}
	placesWork(t, text)
	if !strings.Contains(text, "\nexport KEYWICKET_DATABASE_URL='"+d.DatabaseURL()+"'\n") || !strings.Contains(text, "Ctrl-C") ||
		!strings.Contains(text, "bin/keywicket demo --all\n") {
		t.Errorf("the database URL, Ctrl-C or --all is missing in\n%s", text)
	}
}

// placesWork opens the addresses of metrics and readiness, and reads the log file.
func placesWork(t *testing.T, text string) {
	t.Helper()
	for place, want := range map[string]string{
		`(?m)^Metrics +(http://127\.0\.0\.1:\d+/metrics) `: "keywicket_checks_total",
		`(?m)Readiness +(http://127\.0\.0\.1:\d+/readyz)$`: "200",
		`(?m)^Logs +tail -f (/\S+)$`:                       `"reason":"missing_scope"`,
	} {
		found := regexp.MustCompile(place).FindStringSubmatch(text)
		if found == nil {
			t.Errorf("no %s in\n%s", place, text)
			continue
		}
		arguments := []string{"cat", found[1]}
		if strings.HasPrefix(found[1], "http") {
			arguments = []string{"curl", "-s", "-w", "%{http_code}", found[1]}
		}
		out, err := exec.CommandContext(t.Context(), arguments[0], arguments[1:]...).Output()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%v: no %s in\n%s", err, want, out)
		}
	}
}
