package route_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/policies/route"
)

func indexOf(t *testing.T, headWithGet bool, lines ...string) *route.Index {
	t.Helper()
	x := &route.Index{HeadWithGet: headWithGet}
	for i, line := range lines {
		method, path, _ := strings.Cut(line, " ")
		p, err := route.Parse(path)
		if err != nil {
			t.Fatal(err)
		}
		if before, ok := x.Add(method, p, i); !ok {
			t.Fatalf("%s matches the same requests as %s", line, lines[before])
		}
	}
	return x
}

// If several rows match, the index finds the first of them in the order of docs/policies.md.
func TestOrderOfRows(t *testing.T) {
	rows := []string{ // each matches GET /a/v1.json/c, and has precedence over the rows below it
		"GET /a/v1.json/c",
		"GET /a/v1.json/{z}",
		"GET /a/v1.json/{z...}",
		"GET /a/v{x}.json/c",
		"GET /a/{x}.json/c",
		"GET /a/{x}.json/{z...}",
		"GET /a/{x}.{y}/c",
		"GET /a/{x}/c",
		"* /a/{x}/c",
		"* /a/{x}/{y}",
		"GET /a/{x...}",
		"* /a/{x...}",
		"GET /{x}/v1.json/c",
		"* /{x...}",
	}
	for i := range rows {
		for j := range rows[i+1:] {
			other := rows[i+1+j]
			for _, lines := range [][]string{{rows[i], other}, {other, rows[i]}} {
				found, ok := indexOf(t, false, lines...).Find("GET", "/a/v1.json/c")
				if !ok || lines[found] != rows[i] {
					t.Errorf("%q: found %d, %t", lines, found, ok)
				}
			}
		}
	}
}

func TestMethodsOfRows(t *testing.T) {
	lines := []string{"GET /a", "* /a", "HEAD /b", "GET /b", "GET /c", "* /{x}"}
	for _, c := range []struct {
		headWithGet bool
		line, want  string
	}{
		{false, "GET /a", "GET /a"},
		{false, "HEAD /a", "* /a"},
		{true, "HEAD /a", "GET /a"},
		{false, "PURGE /a", "* /a"},
		{false, "* /a", "* /a"},
		{true, "HEAD /b", "HEAD /b"},
		{true, "HEAD /c", "GET /c"},
		{false, "HEAD /c", "* /{x}"},
		{false, "POST /c", "* /{x}"},
		{false, "get /c", "* /{x}"},
	} {
		method, path, _ := strings.Cut(c.line, " ")
		found, ok := indexOf(t, c.headWithGet, lines...).Find(method, path)
		if !ok || lines[found] != c.want {
			t.Errorf("%s (head with get: %t): found %d, %t, not %s", c.line, c.headWithGet, found, ok, c.want)
		}
	}
}

// Ambiguous reports the rows that match the same path and method although neither row has precedence. It reports no other rows.
func TestAmbiguousRows(t *testing.T) {
	for _, c := range []struct {
		lines []string
		want  [][2]int
	}{
		{[]string{"GET /{a}.json", "GET /data.{b}"}, [][2]int{{0, 1}}},
		{[]string{"GET /x", "GET /{a}.json/{id}", "GET /data.{b}/7"}, [][2]int{{1, 2}}},
		{[]string{"GET /{a}.json/6", "GET /data.{b}/7"}, nil},
		{[]string{"GET /{a}.json", "POST /data.{b}"}, nil},
		{[]string{"GET /{a}.json", "* /data.{b}"}, [][2]int{{0, 1}}},
		{[]string{"GET /{a}.json", "HEAD /data.{b}"}, nil},
		{[]string{"GET /{a}.json", "GET /{a}.xml"}, nil},
		{[]string{"GET /{a}.json", "GET /v{a}.json"}, nil},
		{[]string{"GET /{a}.json", "GET /v{a}"}, [][2]int{{0, 1}}},
		{[]string{"GET /{a}-{b}", "GET /{a}.{b}"}, [][2]int{{0, 1}}},
		{[]string{"GET /{a}..{b}", "GET /{a}.{b}"}, nil},
		{[]string{"GET /{a}.json/{r...}", "GET /data.{b}/x/{z}/"}, [][2]int{{0, 1}}},
		{[]string{"GET /{a}.json/{r...}", "GET /data.{b}/{s...}"}, [][2]int{{0, 1}}},
		{[]string{"GET /{a}.json/{r...}", "GET /data.{b}/"}, nil},
		{[]string{"GET /{a}.json/{r...}", "GET /data.{b}"}, nil},
		{[]string{"GET /{a}.json/{id}.x", "GET /data.{b}/{id}.y"}, nil},
		{[]string{"GET /{a}ab", "GET /ab{b}"}, [][2]int{{0, 1}}},
		{[]string{"GET /a{x}a", "GET /{x}a"}, nil},
		{[]string{"GET /{x}/{a}.json", "GET /{x}/data.{b}", "GET /y/{a}.json"}, [][2]int{{0, 1}}},
		{[]string{"GET /{a}.json", "POST /{a}.json", "GET /data.{b}", "POST /data.{b}", "GET /data.{b}/x/{y}", "GET /{a}.json/x/{y}"},
			[][2]int{{0, 2}, {1, 3}, {4, 5}}},
		{[]string{"GET /{a}.json/{r...}", "GET /data.{b}/x", "GET /data.{b}/y/z/"}, [][2]int{{0, 1}, {0, 2}}},
	} {
		if got := indexOf(t, false, c.lines...).Ambiguous(); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: %v, not %v", c.lines, got, c.want)
		}
	}
	if got := indexOf(t, true, "GET /{a}.json", "HEAD /data.{b}").Ambiguous(); len(got) != 1 {
		t.Errorf("GET and HEAD together: %v", got)
	}
}

func BenchmarkFind(b *testing.B) {
	for form, suffix := range map[string]string{
		"literal": "%d", "parameter": "%d/{id}", "partial": "{id}:verb%d", "rest": "%d/{path...}",
	} {
		for _, n := range []int{20, 3000} {
			b.Run(fmt.Sprintf("%s/rows=%d", form, n), func(b *testing.B) {
				var x route.Index
				for i := range n {
					p, err := route.Parse("/api/v1/things/" + fmt.Sprintf(suffix, i))
					if err != nil {
						b.Fatal(err)
					}
					x.Add("GET", p, i)
				}
				paths := make([]string, 64)
				for i := range paths {
					path := "/api/v1/things/" + fmt.Sprintf(suffix, i*n/len(paths))
					paths[i] = strings.NewReplacer("{id}", fmt.Sprint(7000+i), "{path...}", "a/b").Replace(path)
				}
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					if _, ok := x.Find("GET", paths[i%len(paths)]); !ok {
						b.Fatal(paths[i%len(paths)])
					}
					i++
				}
			})
		}
	}
}
