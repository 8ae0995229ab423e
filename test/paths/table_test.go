package paths

// testRows is a table of GET routes. Rows with different scopes match the same paths. Literals are escaped in many ways. A row
// without a scope is public.
var testRows = []testRow{
	{"/v1/{charge}", "inbox:read"},
	{"/v1/charges:search", "admin:all"},
	{"/v1/%73tatus", "admin:all"},
	{"/v1/a+b", "admin:all"},
	{"/v1/1%2b1", "admin:all"},
	{"/v1/two%20words", "admin:all"},
	{"/v1/caf%C3%A9", "admin:all"},
	{"/v1/caf%C3%A9/{id}", "inbox:read"},
	{"/v1/caf%c3%a9/%7E%72oot", "admin:all"},
	{"/v1/{charge}/", "admin:all"},
	{"/v1/%e2%82%ac%F0%9F%98%80/", "inbox:read"},
	{"/v1/{charge}/refunds/{refund}", "inbox:read"},
	{"/v1/{charge}/refunds/%6Catest", "admin:all"},
	{"/v1/{charge}/{part}/%6catest", "inbox:read"},
	{"/v1/status/{part}/{id}", "admin:all"},
	{"/v1/open%2Dhouse", ""},
}

type testRow struct{ path, scope string }

// testAPIs are the APIs with this table. In one of the APIs, a parameter may contain the special characters.
var testAPIs = map[string]struct{ prefix, parameters, special string }{
	"plain":   {prefix: "pl_"},
	"special": {"sp_", `parameters: {may_hold: ["#", "%", "?", ";"], raw_semicolon: true}` + "\n", "#%?;"},
}

// testScopes are the scopes of the tokens: a limited scope, and a scope that permits everything.
var testScopes = []string{"inbox:read", everything}

const everything = "admin:all"
