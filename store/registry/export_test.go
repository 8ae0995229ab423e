package registry

// TokensQuery returns the query of [Registry.Tokens], for EXPLAIN in tests.
var TokensQuery = tokensQuery
