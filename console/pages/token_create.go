package pages

import (
	"crypto/rand"
	"log/slog"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/pages/choices"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/policies/issuance"
	"github.com/keywicket/keywicket/policies/table"
)

// tokenForm is the form of the page on which users create a token.
type tokenForm struct {
	Name, Prefix string
	Scopes       []string
	Expiry       string // a number of days, or one of the following constants
	Date         string // for onDate: 2006-01-02
	Confirmed    bool   // the user has confirmed an override scope
	Key          string // idempotency key
	Opened       int64  // when the form was shown, in seconds since 1970
}

// The values of tokenForm.Expiry that are not a number of days.
const (
	onDate = "date"
	never  = "none"
)

func readTokenForm(f url.Values) tokenForm {
	opened, _ := strconv.ParseInt(f.Get("opened"), 10, 64)
	return tokenForm{
		Name: f.Get("name"), Prefix: f.Get("prefix"), Scopes: f["scope"], Expiry: f.Get("expiry"), Date: f.Get("date"),
		Confirmed: f.Get("confirmed") == "yes", Key: f.Get("key"), Opened: opened,
	}
}

// expiresAt returns the chosen expiry; nil for none. It counts the days from the time at which the form was shown, so that a repeated
// form has the same expiry. A date ends at midnight in UTC.
func (f tokenForm) expiresAt(now time.Time) (*time.Time, error) {
	const day, longestOpen = 24 * time.Hour, 24 * time.Hour
	switch f.Expiry {
	case never:
		return nil, nil
	case onDate:
		date, err := time.Parse(time.DateOnly, f.Date)
		if err != nil {
			return nil, errNoDate
		}
		end := date.Add(day)
		return &end, nil
	}
	days, err := strconv.Atoi(f.Expiry)
	if err != nil || !slices.Contains(lifetimes, days) {
		return nil, errNoExpiry
	}
	from := time.Unix(f.Opened, 0)
	if from.After(now) || now.Sub(from) > longestOpen {
		from = now
	}
	end := from.Add(time.Duration(days) * day)
	return &end, nil
}

// lifetimes are the lifetimes that the form offers, in days.
var lifetimes = []int{30, 90, 365}

// tokenCreate is the data of the template token_create.html.
type tokenCreate struct {
	*tokenPages
	Form     tokenForm
	Formats  []authz.CredentialFormat
	Presets  []presetLink
	Levels   []choices.Level
	Override []choices.Scope // override scopes
	Days     []int           // lifetimes that the operator's limits allow
	Never    bool            // the limits allow tokens without an expiry
	MaxDays  int64           // the longest lifetime; 0: unlimited
	// MinDate and MaxDate are the limits of the date field.
	MinDate, MaxDate string
	// Withheld is the number of scopes that the user cannot give.
	Withheld int
}

type presetLink struct {
	Name, URL string
	Current   bool
}

// showCreate writes the form.
func (t *tokenPages) showCreate(v *visit) error {
	c, err := t.newTokenCreate(v, time.Now())
	if err != nil {
		return err
	}
	return v.render("token_create.html", c)
}

func (t *tokenPages) newTokenCreate(v *visit, now time.Time) (tokenCreate, error) {
	c := tokenCreate{tokenPages: t, Formats: t.api.FormatsOf(t.owner)}
	kind := c.Formats[0].Kind
	rules := t.api.Rules
	grantable := rules.Grantable(v.Caller.Maker, kind)
	if !v.Caller.Manages(t.owner) {
		return c, errMayNot
	}
	c.addLimits(rules, now)
	if v.PostForm != nil {
		c.Form = readTokenForm(v.PostForm)
	} else {
		c.Form = tokenForm{Prefix: c.Formats[0].Prefix, Expiry: c.usualExpiry()}
	}
	if v.Alert == "used" || c.Form.Key == "" {
		c.Form.Key, c.Form.Opened = rand.Text(), now.Unix()
	}
	chosen := v.URL.Query().Get("preset")
	for _, p := range rules.Presets(v.Caller.Maker, kind) {
		c.Presets = append(c.Presets, presetLink{p.Name, v.Link("/new", "preset", p.Name), p.Name == chosen})
		if p.Name == chosen && v.PostForm == nil {
			c.Form.Scopes = p.Scopes
		}
	}
	c.addScopes(rules, kind, grantable)
	return c, nil
}

func (c *tokenCreate) addLimits(rules issuance.Rules, now time.Time) {
	const day = 24 * time.Hour
	longest := rules.Limits.MaxLifetime
	c.Never = longest == 0 && !rules.Limits.ExpiryRequired
	for _, days := range lifetimes {
		if longest == 0 || time.Duration(days)*day <= longest {
			c.Days = append(c.Days, days)
		}
	}
	c.MinDate = now.UTC().Format(time.DateOnly)
	if longest > 0 {
		c.MaxDays = int64(longest / day)
		c.MaxDate = now.UTC().Add(longest - day).Format(time.DateOnly) // the token ends at the end of the date
	}
}

// usualExpiry returns the lifetime that the form proposes.
func (c *tokenCreate) usualExpiry() string {
	switch {
	case slices.Contains(c.Days, 90): // the documents propose to rotate tokens every 90 days
		return "90"
	case len(c.Days) > 0:
		return strconv.Itoa(c.Days[len(c.Days)-1])
	}
	return onDate
}

// addScopes adds the scopes that the user can give. Other scopes are only counted.
func (c *tokenCreate) addScopes(rules issuance.Rules, kind authz.Kind, grantable []string) {
	levels := []table.Level{table.LevelWorkspace}
	if kind.OfUser() {
		levels = []table.Level{table.LevelUser, table.LevelWorkspace}
	}
	c.Withheld = len(rules.ScopesOf(kind)) - len(grantable)
	for _, level := range levels {
		l := choices.Level{Account: level == table.LevelUser}
		for _, name := range rules.Table.ScopeNames(level) {
			if !slices.Contains(grantable, name) {
				continue
			}
			choice := choices.Scope{Name: name, Description: rules.Table.Scopes[level][name], Checked: slices.Contains(c.Form.Scopes, name)}
			if rules.IsOverride(name) {
				c.Override = append(c.Override, choice)
				continue
			}
			l.Add(choice)
		}
		if len(l.Groups) > 0 {
			c.Levels = append(c.Levels, l)
		}
	}
}

// create creates a token and shows its secret.
func (t *tokenPages) create(v *visit) error {
	f := readTokenForm(v.PostForm)
	expires, err := f.expiresAt(time.Now())
	if err != nil {
		return err
	}
	if !f.Confirmed && slices.ContainsFunc(f.Scopes, t.api.Rules.IsOverride) {
		return errUnsure
	}
	if f.Key == "" {
		return errIncomplete
	}
	created, err := t.settings.CreateToken(v.Context(), v.Caller, t.owner, settings.NewToken{
		Prefix: f.Prefix, Name: f.Name, Scopes: f.Scopes, ExpiresAt: expires, IdempotencyKey: f.Key,
	})
	if err != nil {
		return err
	}
	if !created.Repeated {
		t.logChange(v, "a user has created a token", created.Object, slog.Any("scopes", []string(created.Object.Scopes)))
	}
	return t.showCreated(v, created, nil)
}
