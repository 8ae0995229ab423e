package demo

import (
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
)

// User is a user with a browser, who follows each redirect to sign in and approves every request.
type User struct {
	email  string
	client *http.Client
}

// NewUser returns a user who has not signed in yet. The email must be one of the demo's users.
func NewUser(email string) *User {
	jar, _ := cookiejar.New(nil) // without options there is no error
	return &User{email, &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// page is the page that the browser shows, or the address that it is redirected to.
type page struct {
	url    *url.URL
	status int
	next   *url.URL
	text   string
}

func (u *User) open(ctx context.Context, method string, at *url.URL, form url.Values) (page, error) {
	request, err := http.NewRequestWithContext(ctx, method, at.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return page{}, err
	}
	if form != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	response, err := u.client.Do(request)
	if err != nil {
		return page{}, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	p := page{url: at, status: response.StatusCode, text: string(text)}
	p.next, _ = response.Location() // none, where it is not led anywhere
	return p, err
}

// submit presses a button of the page's form.
func (u *User) submit(ctx context.Context, p page, button, value string, workspaces ...string) (page, error) {
	form := url.Values{button: {value}, "workspace": workspaces}
	for _, m := range hiddenField.FindAllStringSubmatch(p.text, -1) {
		form.Set(m[1], html.UnescapeString(m[2]))
	}
	return u.open(ctx, http.MethodPost, p.url, form)
}

var (
	hiddenField  = regexp.MustCompile(`<input type="hidden" name="(\w+)" value="([^"]*)">`)
	signInButton = regexp.MustCompile(`<button name="user" value="([^"]*)">Sign in as ([^<]*)</button>`)
	workspaceBox = regexp.MustCompile(`name="workspace" value="([^"]*)".*?<bdi>([^<]*)</bdi>`)
)

// ask opens an app's request, signs in if need be, and stops at what then is shown.
func (u *User) ask(ctx context.Context, authorize string) (page, error) {
	at, err := url.Parse(authorize)
	if err != nil {
		return page{}, err
	}
	p, err := u.open(ctx, http.MethodGet, at, nil)
	if err != nil || p.next == nil || p.next.Query().Get("return_to") == "" {
		return p, err
	}
	if p, err = u.open(ctx, http.MethodGet, p.next, nil); err != nil {
		return p, err
	}
	for _, m := range signInButton.FindAllStringSubmatch(p.text, -1) {
		if html.UnescapeString(m[2]) != u.email {
			continue
		}
		if p, err = u.submit(ctx, p, "user", m[1]); err != nil || p.next == nil {
			return p, err
		}
		return u.open(ctx, http.MethodGet, p.next, nil)
	}
	return p, fmt.Errorf("%s cannot sign in at %s", u.email, p.url)
}

// Approve opens an app's request, approves it in the workspaces of these names (none: in all that are offered), and returns where
// the browser is sent, with the code.
func (u *User) Approve(ctx context.Context, authorize string, names ...string) (*url.URL, error) {
	p, err := u.ask(ctx, authorize)
	if err != nil {
		return nil, err
	}
	if p.status != http.StatusOK {
		return p.next, nil // the app is told at once
	}
	if p, err = u.submit(ctx, p, "decision", "approve", p.workspaces(names)...); err != nil {
		return nil, err
	}
	if p.next == nil {
		return nil, errors.New("the consent page leads nowhere: " + p.text)
	}
	return p.next, nil
}

// workspaces are the ids of those that the page offers by these names, or of all.
func (p page) workspaces(names []string) (ids []string) {
	for _, m := range workspaceBox.FindAllStringSubmatch(p.text, -1) {
		wanted := len(names) == 0
		for _, name := range names {
			wanted = wanted || name == html.UnescapeString(m[2])
		}
		if wanted {
			ids = append(ids, m[1])
		}
	}
	return ids
}
