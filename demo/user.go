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

// User is a user with a browser. They sign in where the issuer redirects them, and approve every request.
type User struct {
	email  string
	client *http.Client
}

// NewUser returns a user who has not signed in yet. The email must be one of the demo's users.
func NewUser(email string) *User {
	jar, _ := cookiejar.New(nil) // without options there is no error
	return &User{email, &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// page is one response in the browser: a page or a redirect.
type page struct {
	url    *url.URL
	status int
	next   *url.URL // the redirect's target; nil without a redirect
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
	p.next, _ = response.Location() // nil without a redirect
	return p, err
}

// submit sends the page's form with this button and these workspaces.
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

// openRequest opens an app's authorization request, signs in if the issuer requires it, and returns the response that follows.
func (u *User) openRequest(ctx context.Context, authorize string) (page, error) {
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

// Approve opens an app's authorization request and approves it in the workspaces with these names. Without names, it approves
// every workspace that the page offers. It returns the URL that the browser is redirected to, with the code.
func (u *User) Approve(ctx context.Context, authorize string, names ...string) (*url.URL, error) {
	p, err := u.openRequest(ctx, authorize)
	if err != nil {
		return nil, err
	}
	if p.status != http.StatusOK {
		return p.next, nil // the issuer redirects to the app without a consent page
	}
	if p, err = u.submit(ctx, p, "decision", "approve", p.workspaces(names)...); err != nil {
		return nil, err
	}
	if p.next == nil {
		return nil, errors.New("the consent page does not redirect: " + p.text)
	}
	return p.next, nil
}

// workspaces returns the ids of the workspaces that the page offers under these names. Without names, it returns the ids of all
// workspaces.
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
