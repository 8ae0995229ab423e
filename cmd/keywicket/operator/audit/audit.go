// Package audit contains the commands for the audit log.
package audit

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/keywicket/keywicket/cmd/keywicket/invocation"
	"github.com/keywicket/keywicket/internal/commandline"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/store/auditlog"
	"github.com/keywicket/keywicket/store/registry"
)

// Command is the command `keywicket audit`.
type Command struct {
	List   list   `cmd:"" help:"List changes, newest first."`
	Export export `cmd:"" help:"Print changes as NDJSON, oldest first."`
	Expire expire `cmd:"" help:"Delete old entries. The login needs the role keywicket_retention."`
}

// filterFlags contains the flags that select entries of the audit log.
type filterFlags struct {
	Workspace string               `help:"Only changes in this workspace: id or slug." placeholder:"W"`
	User      string               `help:"Only changes of this user and of what belongs to them: id or email." placeholder:"U"`
	Object    string               `help:"Only changes of the object with this id, such as a token's id from token list. A name or a visible prefix is no id." placeholder:"ID"`
	Actor     string               `help:"Only changes by this actor (the id of a user or app), or by this login of Postgres." placeholder:"A"`
	Action    string               `help:"Only changes of this kind: create, change, revoke, restore, rotate, delete, import, truncate or expire." enum:",create,change,revoke,restore,rotate,delete,import,truncate,expire" default:"" placeholder:"ACTION"`
	Since     *commandline.Instant `help:"Only changes at or after this RFC 3339 time." placeholder:"TIME"`
	Until     *commandline.Instant `help:"Only changes before this RFC 3339 time." placeholder:"TIME"`
	After     commandline.Count    `help:"Id of the last entry of the previous page." placeholder:"ID"`
}

func (f filterFlags) filter() auditlog.Filter {
	return auditlog.Filter{
		Workspace: f.Workspace, User: f.User, Object: f.Object, Actor: f.Actor, Action: f.Action,
		Since: (*time.Time)(f.Since), Until: (*time.Time)(f.Until), After: int64(f.After),
	}
}

type list struct {
	filterFlags
	Limit commandline.Count `help:"Maximum number of entries." default:"100" placeholder:"N"`
}

func (c *list) Run(s *invocation.Invocation, r *registry.Registry) error {
	f := c.filter()
	f.Limit = int(c.Limit) + 1 // one more entry shows whether there is a next page
	var page []auditlog.Entry
	for e, err := range auditlog.Entries(s.Context, r, f) {
		if err != nil {
			return err
		}
		page = append(page, e)
	}
	more := len(page) > int(c.Limit)
	if more {
		page = page[:c.Limit]
	}
	titles := []string{"ID", "TIME", "ACTOR", "ACTION", "OBJECT", "NAME", "CHANGE"}
	err := invocation.PrintList(s, page, titles, func(e auditlog.Entry) []string {
		return []string{
			strconv.FormatInt(e.ID, 10), invocation.FormatTime(&e.At), actorOf(e), e.Action, objectOf(e), value(e.ObjectName), changeOf(e),
		}
	})
	if err == nil && more {
		c.After = commandline.Count(page[len(page)-1].ID)
		fmt.Fprintln(s.Stderr, "There are more entries: "+c.command(s))
	}
	return err
}

// command returns the command line of `keywicket audit list` with the flags in c.
func (c *list) command(s *invocation.Invocation) string {
	return invocation.CommandLine("keywicket audit list", [][2]string{
		{"--config", s.ConfigFlag}, {"--workspace", c.Workspace}, {"--user", c.User}, {"--object", c.Object}, {"--actor", c.Actor},
		{"--action", c.Action}, {"--since", flagTime(c.Since)}, {"--until", flagTime(c.Until)}, {"--limit", strconv.Itoa(int(c.Limit))},
		{"--after", strconv.Itoa(int(c.After))},
	})
}

// flagTime formats the value of a flag, or returns "" if the flag is not given.
func flagTime(t *commandline.Instant) string {
	if t == nil {
		return ""
	}
	return time.Time(*t).Format(time.RFC3339Nano)
}

// actorOf names the actor, and the login if it acted for somebody else.
func actorOf(e auditlog.Entry) string {
	if e.ActorID == nil {
		return e.Login
	}
	return fmt.Sprintf("%s %s (%s)", cmp.Or(value(e.ActorKind), "actor"), *e.ActorID, e.Login)
}

func objectOf(e auditlog.Entry) string {
	if e.Objects > 1 {
		return fmt.Sprintf("%d %ss %s", e.Objects, e.ObjectKind, value(e.ObjectID))
	}
	return e.ObjectKind + " " + value(e.ObjectID)
}

// changeOf shows the values that a change replaced and wrote, or the reason of a revocation. The objects of the other actions are
// too long for a table.
func changeOf(e auditlog.Entry) string {
	if e.Action == "revoke" && e.After != nil {
		var after struct {
			Reason string `json:"revoked_reason"`
		}
		_ = json.Unmarshal(*e.After, &after) // other objects than tokens and grants have no reason
		return after.Reason
	}
	if e.Action != "change" || e.Before == nil || e.After == nil {
		return ""
	}
	return string(*e.Before) + " → " + string(*e.After)
}

// value returns the text, or "" for nil.
func value(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

type export struct{ filterFlags }

func (c *export) Run(s *invocation.Invocation, r *registry.Registry) error {
	f := c.filter()
	f.OldestFirst = true
	encoder := json.NewEncoder(s.Stdout)
	for e, err := range auditlog.Entries(s.Context, r, f) {
		if err == nil {
			err = encoder.Encode(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

type expire struct {
	OlderThan commandline.Lifetime `help:"Delete the entries that are older than this, such as 400d. At least 1d. Default: audit.keep of the configuration." placeholder:"DURATION"`
}

func (c *expire) Run(s *invocation.Invocation, cfg config.Config) error {
	olderThan := cmp.Or(c.OlderThan, commandline.Lifetime(cfg.Audit.Keep))
	if olderThan == 0 {
		return invocation.Usage(errors.New("nothing says how long to keep the entries: give --older-than, such as 400d, or set audit.keep in the configuration"))
	}
	r, err := s.OpenRegistry()
	if err != nil {
		return err
	}
	expired, err := auditlog.Expire(s.Context, r, time.Duration(olderThan))
	if err != nil {
		return err
	}
	return invocation.PrintOne(s, map[string]any{"expired": expired, "older_than": olderThan.String()},
		[2]string{"expired", strconv.FormatInt(expired, 10)}, [2]string{"older than", olderThan.String()})
}
