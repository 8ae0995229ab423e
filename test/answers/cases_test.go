package answers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/strictyaml"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/harness"
)

// Each case checks that keywicket does what one sentence of the API document of VelaFlows or Velocity says. The field Source
// contains the document and the line of the sentence. The cases are written by hand, in ../cases/NAME.yaml. The comments in
// velaflows.yaml explain the format. Each request of a case runs in process and through Envoy.

// caseFile is the content of one file: objects that its cases share, and the cases. A case that changes a shared object
// restores it.
type caseFile struct {
	API        string
	Workspaces []struct{ ID, Slug, Name string }
	Users      []struct {
		ID, Email string
		Roles     map[string]string // workspace → role
	}
	Cases []scenario
}

// scenario is one case: the place of a sentence of the document, and the steps that check this sentence.
type scenario struct {
	Name   string
	Source string // place of the sentence, as DOCUMENT:LINE
	Keys   map[string]caseKey
	Steps  []step
}

// caseKey is a credential that exists when the case begins.
type caseKey struct {
	Prefix          string
	Workspace, User string
	Scopes          []string
	Token           string // a token that the product issued before; empty: the test generates a token
	Expired         bool
	Revoked         bool
	Session         bool // a session token of User
	OAuth           bool // an app's access token: User has granted Scopes to the app, for the workspaces in Granted
	Granted         list // workspaces
}

// step is one of: requests, a command, a revocation, a wait for an expiry, a check of the stored row.
type step struct {
	Request        list
	Key            string  // name of the key whose token is sent
	Workspace      *string // value of the workspace header; if the header needs an id, a slug of the case file is replaced with the workspace's id
	Headers        map[string]string
	Expect         string            // status and upstream of an allow; status, code and reason of a denial
	RequiredScopes []string          `yaml:"required_scopes"`
	Seen           map[string]string // headers that the upstream receives: name → value; an empty value: the header is absent

	Keywicket  string              // arguments of the command; if As or Prints is set, --output json is added
	As         string              // name for the printed object; Key may use this name if the object has a token
	Prints     []map[string]string // field → regular expression; each map matches one of the printed objects
	Exit       int
	Stdout     list // regular expressions
	Stderr     list
	NotPrinted list          `yaml:"not_printed"`
	Within     time.Duration // maximum time for retries of the command

	Revoke          string
	AwaitExpiry     string `yaml:"await_expiry"`
	CheckStoredHash string `yaml:"stored_hashed"` // name of a key: its row must contain the SHA-256 of the token, and not the token
}

// list is one string or several strings.
type list []string

func (l *list) UnmarshalYAML(decode func(any) error) error {
	var one string
	if decode(&one) == nil {
		*l = list{one}
		return nil
	}
	return decode((*[]string)(l))
}

// documentLines is the number of lines of each document.
var documentLines = map[string]int{"velaflows": 98, "velocity": 106}

func (s scenario) validate() error {
	document, text, _ := strings.Cut(s.Source, ":")
	line, err := strconv.Atoi(text)
	if err != nil || line < 1 || line > documentLines[document] {
		return fmt.Errorf("the source %q is not DOCUMENT:LINE, or the document has no such line", s.Source)
	}
	if s.Name == "" || len(s.Steps) == 0 {
		return errors.New("a case needs a name and steps")
	}
	for i, st := range s.Steps {
		kinds := 0
		for _, is := range []bool{
			st.Request != nil, st.Keywicket != "", st.Revoke != "", st.AwaitExpiry != "", st.CheckStoredHash != "",
		} {
			if is {
				kinds++
			}
		}
		switch {
		case kinds != 1:
			return fmt.Errorf("step %d has no kind, or more than one", i+1)
		case (st.Request != nil) != (st.Expect != ""):
			return fmt.Errorf("step %d: expect is required for a request, and invalid for other steps", i+1)
		case strings.HasSuffix(st.Expect, " missing_scope") != (st.RequiredScopes != nil):
			return fmt.Errorf("step %d: required_scopes is required for missing_scope, and invalid for other outcomes", i+1)
		case st.Seen != nil && !strings.HasPrefix(st.Expect, "200 "):
			return fmt.Errorf("step %d: seen is valid only for an allowed request", i+1)
		}
	}
	return nil
}

func TestCases(t *testing.T) {
	files, err := filepath.Glob("../cases/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("there are no cases", err)
	}
	client := harness.NewClient(t, deployment.Stack, 1)
	var cases, checked, sent, commands int
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var file caseFile
		if err := strictyaml.Decode(text, &file); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		t.Run(filepath.Base(name), func(t *testing.T) {
			file.arrange(t)
			for _, s := range file.Cases {
				t.Run(s.Name, func(t *testing.T) {
					if err := s.validate(); err != nil {
						t.Fatal(err)
					}
					p := &caseRun{file: file, client: client, names: make(map[string]map[string]string)}
					p.run(t, s)
					cases, checked, sent, commands = cases+1, checked+p.checked, sent+p.sent, commands+p.commands
				})
			}
		})
	}
	t.Logf("%d cases, %d requests in process, %d through Envoy, %d commands", cases, checked, sent, commands)
}

// arrange creates the file's shared objects. At the end of the test, it removes these objects and everything that the cases
// created, because other files may contain objects with the same IDs.
func (f caseFile) arrange(t *testing.T) {
	db := harness.OpenDatabase(t, deployment.Stack)
	var start time.Time
	if err := db.GetContext(t.Context(), &start, `SELECT clock_timestamp()`); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, table := range []string{"workspaces", "users"} { // this also deletes members and tokens
			if _, err := db.ExecContext(context.Background(), `DELETE FROM keywicket.`+table+` WHERE created_at >= $1`, start); err != nil {
				t.Error(err)
			}
		}
	})
	for _, w := range f.Workspaces {
		if _, err := deployment.Registry.CreateWorkspace(t.Context(), registry.Workspace{ID: w.ID, Slug: w.Slug, Name: w.Name}); err != nil {
			t.Fatal(err)
		}
	}
	for _, u := range f.Users {
		if _, err := deployment.Registry.CreateUser(t.Context(), registry.User{ID: u.ID, Email: u.Email}); err != nil {
			t.Fatal(err)
		}
		for workspace, role := range u.Roles {
			if _, err := deployment.Registry.SetMember(t.Context(), workspace, u.ID, role); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// headerValue returns the value of the workspace header. For VelaFlows, it replaces the slug of a workspace in the file with the
// workspace's id.
func (f caseFile) headerValue(workspace string) string {
	for _, w := range f.Workspaces {
		if w.Slug == workspace && f.API == "velaflows" {
			return w.ID
		}
	}
	return workspace
}

// create creates the credential. If Expired is set, create returns after the credential has expired.
func (k caseKey) create(t testing.TB, name string) (registry.Token, string) {
	t.Helper()
	n := registry.NewToken{Name: name, Scopes: k.Scopes, Workspace: k.Workspace, User: k.User, Key: authz.Secret(k.Token)}
	if k.Expired {
		n.ExpiresIn = new(time.Millisecond)
	}
	token, secret := deployment.CreateToken(t, k.Prefix, n)
	if k.Expired {
		deployment.AwaitExpiry(t, token.ID)
	}
	if k.Revoked {
		if _, err := deployment.Registry.RevokeToken(t.Context(), token.ID); err != nil {
			t.Fatal(err)
		}
	}
	return token, secret
}
