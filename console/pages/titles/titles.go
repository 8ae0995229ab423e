// Package titles contains the titles of the pages, and the paths that follow from them.
package titles

import (
	"fmt"
	"strings"
)

// The titles of the pages that have the same title in every API.
const (
	General           = "General"
	WorkspaceActivity = "Activity"
	AuthorizedApps    = "Account > Authorized Apps"
	AccountActivity   = "Account > Activity"
)

// StaticPath is the path of the static files, below the path of all pages.
const StaticPath = "/static/"

// Path returns the path of the page with this title, below the path of all pages: /developer/api-tokens for Developer > API Tokens.
func Path(title string) string {
	return "/" + strings.ReplaceAll(strings.ReplaceAll(strings.ToLower(title), " > ", "/"), " ", "-")
}

// Check returns an error if, with the configured titles, two pages would have the same path, or if one page would be below another one. The second page could
// have the path of a form or of a token of the first page. An empty title stands for no page.
func Check(configured ...string) error {
	titles := []string{General, WorkspaceActivity, AuthorizedApps, AccountActivity}
	for _, title := range configured {
		if title == "" {
			continue
		}
		path := Path(title)
		if strings.HasPrefix(path+"/", StaticPath) {
			return fmt.Errorf("the title %q is not valid: the path static is for the console's own files", title)
		}
		for _, other := range titles {
			otherPath := Path(other)
			switch {
			case path == otherPath:
				return fmt.Errorf("the pages %q and %q would have the same path: choose another title", other, title)
			case strings.HasPrefix(path, otherPath+"/"):
				return fmt.Errorf("the page %q would be below the page %q: choose another title", title, other)
			case strings.HasPrefix(otherPath, path+"/"):
				return fmt.Errorf("the page %q would be below the page %q: choose another title", other, title)
			}
		}
		titles = append(titles, title)
	}
	return nil
}
