package store

// LookupQuery is for EXPLAIN.
const LookupQuery = lookupQuery

// TokensQuery is for EXPLAIN.
var TokensQuery = tokensQuery
