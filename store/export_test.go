package store

// LookupQuery is for EXPLAIN.
const (
	LookupQuery = lookupQuery
	OAuthQuery  = oauthQuery
)

// TokensQuery is for EXPLAIN.
var TokensQuery = tokensQuery

// FeedURL is for every form of a URL.
var FeedURL = feedURL
