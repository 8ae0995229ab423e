package database

import (
	"cmp"
	"errors"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"unicode"
)

// options contains the options of a database URL: the name of each option, as in libpq, and its value.
type options map[string]string

const urlForms = ": write a URL in the form " + urlForm + ", with special characters of the password percent-encoded"

// errUnparsable contains no part of the URL, because any part of an invalid URL may belong to the password.
var errUnparsable = errors.New("the database URL cannot be parsed" + urlForms)

// readDatabaseURL accepts the same URLs as libpq. Unlike lib/pq, it accepts several hosts that each have a port, sockets, and
// IPv6 addresses without a port. If an option occurs more than once, the last value is used.
func readDatabaseURL(text string) (options, error) {
	scheme, rest, isURL := strings.Cut(text, "://")
	o := options{}
	read := o.readPairs
	switch {
	case isURL && (scheme == "postgres" || scheme == "postgresql"):
		text, read = rest, o.readURL
	case isURL && !strings.Contains(scheme, "="):
		return nil, errors.New("the database URL is not for Postgres" + urlForms)
	}
	if !read(text) || !o.normalize() {
		return nil, errUnparsable
	}
	return o, nil
}

// readURL reads the part of a URL after the scheme.
func (o options) readURL(text string) bool {
	location, query, _ := strings.Cut(text, "?")
	authority, database, _ := strings.Cut(location, "/")
	hosts, hasUser := authority, false
	if at := strings.LastIndex(authority, "@"); at >= 0 {
		user, password, _ := strings.Cut(authority[:at], ":")
		if !o.set("user", user, url.PathUnescape) || !o.set("password", password, url.PathUnescape) {
			return false
		}
		hosts, hasUser = authority[at+1:], true
	}
	if !hasUser && strings.Contains(database, "@") { // the text after the slash may be part of a password
		return false
	}
	if !o.readHosts(hosts) || !o.set("dbname", database, url.PathUnescape) {
		return false
	}
	for pair := range strings.SplitSeq(query, "&") {
		name, value, ok := strings.Cut(pair, "=")
		if pair == "" {
			continue
		}
		// In this package, a "+" means a space, as is usual in encoded queries. In libpq, a "+" means a "+".
		name, err := url.QueryUnescape(name)
		if !ok || err != nil || name == "" || !o.set(name, value, url.QueryUnescape) {
			return false
		}
	}
	return true
}

// set sets an option. If the value is empty, set ignores it, so that the libpq service (pg_service.conf) or a PG* environment
// variable can supply the value.
func (o options) set(name, value string, unescape func(string) (string, error)) bool {
	value, err := unescape(value)
	if value != "" {
		o[name] = value
	}
	return err == nil
}

// readHosts reads a list of hosts, each with or without a port. If at least one host has a port, every host without a port gets
// the default port of Postgres.
func (o options) readHosts(list string) bool {
	const standard = "5432"
	var hosts, ports []string
	hasHost, hasPort := false, false
	for item := range strings.SplitSeq(list, ",") {
		host, port, _ := strings.Cut(item, ":")
		if address, ok := strings.CutPrefix(item, "["); ok {
			if host, port, ok = strings.Cut(address, "]"); !ok {
				return false
			}
			if port, ok = strings.CutPrefix(port, ":"); !ok && port != "" {
				return false
			}
		}
		host, err := url.PathUnescape(host)
		if err != nil || !hostName(host, strings.HasPrefix(item, "[")) || strings.Trim(port, "0123456789") != "" {
			return false
		}
		hasHost, hasPort = hasHost || host != "", hasPort || port != ""
		hosts, ports = append(hosts, cmp.Or(host, "localhost")), append(ports, cmp.Or(port, standard))
	}
	if hasHost {
		o["host"] = strings.Join(hosts, ",")
	}
	if hasPort {
		o["port"] = strings.Join(ports, ",")
	}
	return true
}

// hostName reports whether host can be a host name. A text with other characters may be a part of the password. It must not
// become a host name, because the error of a DNS query would contain it.
func hostName(host string, bracketed bool) bool {
	if bracketed {
		_, err := netip.ParseAddr(host)
		return err == nil
	}
	return strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") || !strings.ContainsAny(host, " \t\r\n/@?#<>[]{}|\\^`'\"")
}

// readPairs reads pairs of the form key=value or key='value'.
func (o options) readPairs(text string) bool {
	for text = strings.TrimLeftFunc(text, unicode.IsSpace); text != ""; text = strings.TrimLeftFunc(text, unicode.IsSpace) {
		name, rest, ok := strings.Cut(text, "=")
		name = strings.TrimRightFunc(name, unicode.IsSpace)
		if !ok || name == "" || strings.ContainsFunc(name, unicode.IsSpace) {
			return false
		}
		if o[name], text, ok = readValue(strings.TrimLeftFunc(rest, unicode.IsSpace)); !ok {
			return false
		}
	}
	return true
}

// readValue returns the value at the start of the text, and the text after the value. A backslash escapes the next character,
// inside and outside of quotes.
func readValue(text string) (value, rest string, ok bool) {
	text, quoted := strings.CutPrefix(text, "'")
	var b strings.Builder
	escaped := false
	for i, r := range text {
		switch {
		case escaped:
			b.WriteRune(r)
			escaped = false
		case r == '\\':
			escaped = true
		case quoted && r == '\'':
			return b.String(), text[i+1:], true
		case !quoted && unicode.IsSpace(r):
			return b.String(), text[i:], true
		default:
			b.WriteRune(r)
		}
	}
	return b.String(), "", !quoted && !escaped
}

// normalize changes the options to the form that lib/pq expects. It returns false if a name or value cannot be sent to the
// server.
func (o options) normalize() bool {
	for name, value := range maps.Clone(o) {
		// A zero byte is not permitted, because Postgres would read the text after it as another option.
		if !optionName(name) || strings.Contains(value, "\x00") {
			return false
		}
		// lib/pq adds these options itself, in lower case. If the URL has another spelling, lib/pq would send the option twice.
		if lower := strings.ToLower(name); lower != name && slices.Contains([]string{"datestyle", "client_encoding", "application_name"}, lower) {
			delete(o, name)
			o[lower] = value
		}
	}
	if database, ok := o["database"]; ok {
		delete(o, "database")
		o["dbname"] = database
	}
	if o["ssl"] == "true" { // libpq accepts ssl=true for compatibility with JDBC
		delete(o, "ssl")
		o["sslmode"] = cmp.Or(o["sslmode"], "require")
	}
	switch port := o["port"]; {
	case port == "":
		delete(o, "port")
	case port[0] == ',': // lib/pq uses the default port for an empty element of the list, but not for the first element
		o["port"] = "5432" + port
	}
	return true
}

func optionName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return !strings.ContainsRune("_.-", r) && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
}

// dsn returns the options as key='value' pairs for lib/pq.
func (o options) dsn() string {
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(o)) {
		pairs = append(pairs, name+"='"+quote.Replace(o[name])+"'")
	}
	return strings.Join(pairs, " ")
}
