package demo

import (
	"context"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
)

// User is a user with a browser. The user signs in at the page to which the issuer redirects the browser, and approves every
// request.
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

func (u *User) open(ctx context.Context, method string, address *url.URL, form url.Values) (page, error) {
	request, err := http.NewRequestWithContext(ctx, method, address.String(), strings.NewReader(form.Encode()))
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
	p := page{url: address, status: response.StatusCode, text: string(text)}
	p.next, _ = response.Location() // nil without a redirect
	return p, err
}

// submit sends the page's form with the value of a button and the ids of the workspaces.
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

// openRequest opens an app's authorization request, signs in if the issuer requires this, and returns the issuer's response.
func (u *User) openRequest(ctx context.Context, authorize string) (page, error) {
	address, err := url.Parse(authorize)
	if err != nil {
		return page{}, err
	}
	p, err := u.open(ctx, http.MethodGet, address, nil)
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

// Approve opens an app's authorization request and approves it for the workspaces with these names. Without names, Approve approves
// the request for every workspace on the page. It returns the URL that the issuer redirects the browser to. This URL contains the
// code.
func (u *User) Approve(ctx context.Context, authorize string, names ...string) (*url.URL, error) {
	p, err := u.openRequest(ctx, authorize)
	if err != nil {
		return nil, err
	}
	if p.status == http.StatusOK { // otherwise the issuer redirects to the app without a consent page, or refuses the request
		if p, err = u.submit(ctx, p, "decision", "approve", p.workspaces(names)...); err != nil {
			return nil, err
		}
	}
	if p.next == nil {
		return nil, fmt.Errorf("the issuer answers %d without a redirect: %s", p.status, p.text)
	}
	return p.next, nil
}

// workspaces returns the ids of the workspaces on the page that have these names. Without names, it returns the ids of all
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
