package store

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lib/pq"
)

// settings is what a database URL says, with all that stands behind it.
type settings struct {
	pq.Config
	// dsn says the same to lib/pq's listener, which takes no Config.
	dsn string
	// pooled: the URL says that it leads through a pooler of transactions.
	pooled bool
	// keepAlive is for a [net.Dialer] whose own KeepAlive is negative: the one that is not enabled means that there is none.
	keepAlive net.KeepAliveConfig
}

const applicationName = "keywicket"

const urlForm = "postgres://user:password@host:5432/database?sslmode=require"

// parse reads a database URL in the order of libpq: what the URL says counts, then its service, then the environment, then
// what lib/pq takes without any of them. lib/pq by itself lets the service count before the URL.
func parse(databaseURL string) (settings, error) {
	if strings.TrimSpace(databaseURL) == "" {
		return settings{}, errors.New("no database URL is given; it looks like " + urlForm)
	}
	said, err := readDatabaseURL(databaseURL)
	if err != nil {
		return settings{}, err
	}
	if err := said.addService(); err != nil {
		return settings{}, err
	}
	if err := said.checkLists(); err != nil {
		return settings{}, err
	}
	var s settings
	foreign := said.takeForeign()
	if err := foreign.readTo(&s); err != nil {
		return settings{}, err
	}
	said["service"] = "" // it is read
	config, err := pq.NewConfig(said.dsn())
	if err != nil {
		return settings{}, configError(err)
	}
	if err := foreign.check(config.SSLMode); err != nil {
		return settings{}, err
	}
	// lib/pq would leave out TLS for all of them if the first one is a socket.
	if sockets, hosts := countHosts(config); sockets > 0 && hosts > 0 {
		return settings{}, errors.New("the database URL names sockets beside other hosts: name only one kind")
	}
	if err := said.checkPassfile(); err != nil {
		return settings{}, err
	}
	// A standby may lag behind what the primary has told of, and nothing can be written to it.
	switch config.TargetSessionAttrs {
	case "":
		config.TargetSessionAttrs = pq.TargetSessionAttrsPrimary
	case pq.TargetSessionAttrsPrimary, pq.TargetSessionAttrsReadWrite:
	default:
		return settings{}, fmt.Errorf("the database URL has target_session_attrs=%s: it has to be the primary", config.TargetSessionAttrs)
	}
	maps.DeleteFunc(said, func(name, _ string) bool { _, ours := sessionSettings[strings.ToLower(name)]; return ours })
	maps.Copy(said, sessionSettings)
	said["target_session_attrs"] = string(config.TargetSessionAttrs)
	said["application_name"] = cmp.Or(config.ApplicationName, applicationName)
	s.dsn = said.dsn()
	if s.Config, err = pq.NewConfig(s.dsn); err != nil {
		return settings{}, configError(err)
	}
	return s, nil
}

// sessionSettings hold whatever the database or the role is set to.
var sessionSettings = map[string]string{
	"timezone":                    "UTC", // times are shown in it; lib/pq never sends Config.TZ
	"standard_conforming_strings": "on",  // a backslash in the SQL of this package is one
}

func countHosts(c pq.Config) (sockets, hosts int) {
	all := append([]pq.ConfigMultihost{{Host: c.Host, Hostaddr: c.Hostaddr}}, c.Multi...)
	for _, h := range all {
		if !h.Hostaddr.IsValid() && (filepath.IsAbs(h.Host) || strings.HasPrefix(h.Host, "@")) {
			sockets++
		}
	}
	return sockets, len(all) - sockets
}

// checkLists refuses lists of hosts in the environment beside the URL's own: lib/pq would append one to the other.
func (o options) checkLists() error {
	for option, variable := range map[string]string{"host": "PGHOST", "hostaddr": "PGHOSTADDR", "port": "PGPORT"} {
		if _, ok := o[option]; ok && strings.Contains(os.Getenv(variable), ",") {
			return fmt.Errorf("the environment variable %s is a list, and the database URL names its own %s: unset the variable", variable, option)
		}
	}
	return nil
}

// checkPassfile refuses a file that lib/pq would leave out at each connection, as if there were no password. One that is not
// there may come.
func (o options) checkPassfile() error {
	file := o["passfile"]
	info, err := os.Stat(file)
	if file == "" || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && info.Mode().Perm()&0o167 != 0 { // lib/pq means 0o177
		return fmt.Errorf("the passfile %s of the database URL has the mode %#o: make it 0600, or it is not used", file, info.Mode().Perm())
	}
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("read the passfile of the database URL: %w", err)
	}
	return f.Close()
}

// configError says what lib/pq does not take. It repeats of it only what cannot be a part of a password that lacks its
// quotes.
func configError(err error) error {
	text := err.Error()
	_, supported, listed := strings.Cut(text, "; supported values are ")
	if listed {
		supported = ": supported are " + supported
	}
	if rest, ok := strings.CutPrefix(text, `pq: wrong value for "`); ok {
		name, _, _ := strings.Cut(rest, `"`)
		return fmt.Errorf("the database URL has a wrong value for %s%s", name, supported)
	}
	if rest, ok := strings.CutPrefix(text, "pq: wrong value for $"); ok {
		name, _, _ := strings.Cut(rest, ":")
		return fmt.Errorf("the environment variable %s has a wrong value%s", name, supported)
	}
	if rest, ok := strings.CutPrefix(text, "pq: environment variable $"); ok {
		name, _, _ := strings.Cut(rest, " ")
		return fmt.Errorf("the environment variable %s is not supported: unset it, and say it in the database URL", name)
	}
	if rest, ok := strings.CutPrefix(text, "pq: unsupported "); ok { // client_encoding, datestyle
		name, _, _ := strings.Cut(rest, " ")
		return fmt.Errorf("the database URL has a wrong value for %s: leave it out", name)
	}
	if strings.HasPrefix(text, "user: ") {
		return errors.New("the database URL names no user, and the system has no name for the one who runs this: write one")
	}
	if slices.ContainsFunc(
		[]string{"pq: could not match ", "pq: weak sslmode ", "pq: min_protocol_version "}, // numbers, and values that lib/pq knows
		func(known string) bool { return strings.HasPrefix(text, known) },
	) {
		return fmt.Errorf("the database URL does not fit together: %s", strings.TrimPrefix(text, "pq: "))
	}
	return errUnparsable
}
