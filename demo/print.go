package demo

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/keywicket/keywicket/demo/example"
	"github.com/keywicket/keywicket/internal/shell"
)

const summaryColumns = 100 // the width of a terminal

// PrintSummary writes the addresses, six requests, and where everything else is. With a user's own policies, it sends the six requests
// first, because only the policies know the answers.
func (d *Demo) PrintSummary(ctx context.Context, w io.Writer) error {
	requests := example.Highlights
	if d.own != nil {
		requests = slices.Clone(d.requests[:min(len(example.Highlights), len(d.requests))])
		for i, r := range requests {
			seen, err := d.send(ctx, r, d.secrets[r.Key].Reveal())
			if err != nil {
				return err
			}
			requests[i].Want = seen
		}
		slices.SortStableFunc(requests, func(a, b example.Request) int { return d.order(a.API) - d.order(b.API) })
	}
	flags := ""
	if d.own != nil {
		flags = d.own.Flags
	}
	lines := append(d.heading(), "")
	tail := slices.Concat([]string{""}, d.places(), []string{
		"More     Ctrl-C stops this demo and removes it. Then run: bin/keywicket demo --all" + flags,
		"# paste this in a second terminal before you create keys with bin/keywicket token create",
		d.export(),
	})
	for _, r := range requests {
		lines = append(lines, fmt.Sprintf("# %s: %s", r.Want, notSpecial.Replace(r.Why)))
		lines = append(lines, wrap(d.curl(r))...)
	}
	_, err := fmt.Fprintln(w, strings.Join(append(lines, tail...), "\n"))
	return err
}

// notSpecial removes characters that a shell interprets even in a comment: by default, zsh has no comments at its prompt.
var notSpecial = strings.NewReplacer("'", "", `"`, "", "`", "", "$", "", "(", "", ")", "")

// heading returns the addresses of the APIs, and says where the requests come from.
func (d *Demo) heading() []string {
	if d.own == nil {
		return []string{fmt.Sprintf("VelaFlows at %s, Velocity at %s", d.VelaFlows, d.Velocity)}
	}
	var addresses []string
	for _, name := range d.own.Names() {
		addresses = append(addresses, name+" at "+d.URLs[name])
	}
	return []string{strings.Join(addresses, ", "), ownNote}
}

const ownNote = "The tour of the samples does not apply to your policies. These requests are for rows of your tables:"

// places returns where metrics, readiness, logs and the settings pages are.
func (d *Demo) places() []string {
	logs := "in this terminal"
	if d.LogFile != "" {
		logs = "tail -f " + shell.Quote(d.LogFile)
	}
	places := []string{
		fmt.Sprintf("Metrics  http://%[1]s/metrics    Readiness  http://%[1]s/readyz", d.Sidecar.Operations),
		"Logs     " + logs,
	}
	if d.Console != nil {
		places = append(places, fmt.Sprintf("Pages    %s/settings    %s/settings", d.VelaFlows, d.Velocity))
	}
	return places
}

// export returns a shell command after which keywicket's commands use the stack's database and policies.
func (d *Demo) export() string {
	command := "export KEYWICKET_DATABASE_URL='" + d.DatabaseURL() + "'"
	var environ []string
	if d.own != nil {
		environ = d.own.Environ
	}
	if d.ConfigFile != "" {
		environ = append(slices.Clone(environ), "KEYWICKET_CONFIG="+d.ConfigFile)
	}
	for _, setting := range environ {
		name, value, _ := strings.Cut(setting, "=")
		command += " " + name + "=" + shell.Quote(value)
	}
	return command
}

// order returns the position of the API among the APIs.
func (d *Demo) order(api string) int { return slices.Index(d.own.Names(), api) }

// wrap divides a command into lines. Each line has as many parts of the command as it has space for.
func wrap(parts []string) []string {
	var lines []string
	for rest := slices.Clone(parts); len(rest) > 0; {
		line := rest[0]
		if len(lines) > 0 {
			line = "  " + line
		}
		rest = slices.DeleteFunc(rest[1:], func(part string) bool {
			if len(line)+1+len(part)+len(` \`) > summaryColumns {
				return false
			}
			line += " " + part
			return true
		})
		if len(rest) > 0 {
			line += ` \`
		}
		lines = append(lines, line)
	}
	return lines
}

// Print writes the addresses, the keys and all example requests.
func (d *Demo) Print(w io.Writer) error {
	fmt.Fprintf(w, "\n%s\n\n%s\n\nKeys:\n\n", strings.Join(d.heading(), "\n"), strings.Join(d.places(), "\n"))
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	create := ""
	for _, k := range d.keys {
		owner := k.Workspace
		if k.User != "" {
			owner = k.User
		}
		shown := d.secrets[k.Name].Reveal()
		if k.Variable != "" {
			shown = "$" + k.Variable
		}
		if create == "" && k.Workspace == example.WorkspaceSlug && len(k.Scopes) > 0 {
			create = fmt.Sprintf("\n  bin/keywicket token create --prefix %s --workspace acme --name mine --scope %s", k.Format.Prefix, shell.Quote(k.Scopes[0]))
		}
		fmt.Fprintf(table, "  %s\t%s\t%s\t%s\n", k.API, k.Name, owner, shown)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, k := range d.keys {
		if k.Variable != "" { // the secret is a token that is too long for the table
			fmt.Fprintf(w, "  %s=%s\n", k.Variable, d.secrets[k.Name].Reveal())
		}
	}
	fmt.Fprint(w, "\nRequests to paste:\n")
	for _, r := range d.requests {
		fmt.Fprintf(w, "\n  # %s: %s\n  %s\n", r.Why, r.Want, strings.Join(d.curl(r), " "))
	}
	if d.Issuer != nil {
		fmt.Fprint(w, d.curlFlow())
		create += "\n  bin/keywicket session revoke --user ada@example.com\n  bin/keywicket grant list"
	}
	fmt.Fprintf(w, `
To create and revoke your own keys, run in a second terminal:

  %s%s
  bin/keywicket token list
  bin/keywicket token revoke ID

Ctrl-C stops everything and removes it.
`, d.export(), create)
	return nil
}
