package database

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

// Settings is the complete configuration that a database URL describes. It includes the options of the libpq service in the URL,
// and the options in PG* environment variables.
type Settings struct {
	pq.Config
	// DSN is the same configuration as text, because lib/pq's listener does not accept a Config.
	DSN string
	// pooled reports whether the URL has pgbouncer=true, which means a transaction pooler.
	pooled bool
	// KeepAlive is for the field KeepAliveConfig of a [net.Dialer]. The field KeepAlive of the dialer must be negative.
	// Otherwise, Enable = false has no effect.
	KeepAlive net.KeepAliveConfig
}

const applicationName = "keywicket"

const urlForm = "postgres://user:password@host:5432/database?sslmode=require"

// Parse reads a database URL in the form that [Open] accepts. For each option, Parse uses the first value in this order, as libpq
// does: the URL, the service, the environment, the default of lib/pq. lib/pq alone would use the service before the URL.
func Parse(databaseURL string) (Settings, error) {
	if strings.TrimSpace(databaseURL) == "" {
		return Settings{}, errors.New("no database URL is given: write one in the form " + urlForm)
	}
	o, err := readDatabaseURL(databaseURL)
	if err != nil {
		return Settings{}, err
	}
	if err := o.addService(); err != nil {
		return Settings{}, err
	}
	if err := o.checkLists(); err != nil {
		return Settings{}, err
	}
	var s Settings
	nonDriver := o.takeNonDriverOptions()
	if err := nonDriver.readSettings(&s); err != nil {
		return Settings{}, err
	}
	o["service"] = "" // addService has already added the options of the service
	config, err := pq.NewConfig(o.dsn())
	if err != nil {
		return Settings{}, configError(err)
	}
	if err := nonDriver.check(config.SSLMode); err != nil {
		return Settings{}, err
	}
	// If the first host is a socket, lib/pq uses no TLS for any host.
	if sockets, hosts := countHosts(config); sockets > 0 && hosts > 0 {
		return Settings{}, errors.New("the database URL has sockets and other hosts: use only one kind")
	}
	if err := o.checkPassfile(); err != nil {
		return Settings{}, err
	}
	// A standby is not permitted, because it accepts no writes and may return old data.
	switch config.TargetSessionAttrs {
	case "":
		config.TargetSessionAttrs = pq.TargetSessionAttrsPrimary
	case pq.TargetSessionAttrsPrimary, pq.TargetSessionAttrsReadWrite:
	default:
		return Settings{}, fmt.Errorf("the database URL has target_session_attrs=%s: write target_session_attrs=primary", config.TargetSessionAttrs)
	}
	maps.DeleteFunc(o, func(name, _ string) bool { _, ours := sessionSettings[strings.ToLower(name)]; return ours })
	maps.Copy(o, sessionSettings)
	o["target_session_attrs"] = string(config.TargetSessionAttrs)
	o["application_name"] = cmp.Or(config.ApplicationName, applicationName)
	s.DSN = o.dsn()
	if s.Config, err = pq.NewConfig(s.DSN); err != nil {
		return Settings{}, configError(err)
	}
	return s, nil
}

// sessionSettings override the settings of the database and the role.
var sessionSettings = map[string]string{
	"timezone":                    "UTC", // the time zone of times in results; lib/pq does not send the time zone in Config.TZ
	"standard_conforming_strings": "on",  // a backslash in the store's SQL is an ordinary character
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

// checkLists rejects a list of hosts or of ports in an environment variable if the URL also sets this option, because lib/pq
// would combine the two lists.
func (o options) checkLists() error {
	for option, variable := range map[string]string{"host": "PGHOST", "hostaddr": "PGHOSTADDR", "port": "PGPORT"} {
		if _, ok := o[option]; ok && strings.Contains(os.Getenv(variable), ",") {
			return fmt.Errorf("the environment variable %s is a list, but the database URL has its own %s: unset the variable", variable, option)
		}
	}
	return nil
}

// checkPassfile rejects a password file that lib/pq would ignore without an error. If the file is missing, this is not an error,
// because the file may be created later.
func (o options) checkPassfile() error {
	file := o["passfile"]
	info, err := os.Stat(file)
	if file == "" || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && info.Mode().Perm()&0o167 != 0 { // lib/pq intends 0o177, but checks this mask
		return fmt.Errorf("the driver ignores the passfile %s of the database URL, because the file has the mode %#o: change the mode to 0600", file, info.Mode().Perm())
	}
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("read the passfile of the database URL: %w", err)
	}
	return f.Close()
}

// configError returns an error with the name of the option that lib/pq rejects. If a password contains spaces and is not quoted,
// lib/pq may read a part of the password as an option. So the error contains no text that can be a part of the password.
func configError(err error) error {
	text := err.Error()
	_, supported, listed := strings.Cut(text, "; supported values are ")
	if listed {
		supported = ": write one of " + supported
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
		return fmt.Errorf("the environment variable %s is not supported: unset it, and set the option in the database URL", name)
	}
	if rest, ok := strings.CutPrefix(text, "pq: unsupported "); ok { // client_encoding, datestyle
		name, _, _ := strings.Cut(rest, " ")
		return fmt.Errorf("the database URL has a wrong value for %s: remove it", name)
	}
	if strings.HasPrefix(text, "user: ") {
		return errors.New("the database URL has no user, and the operating system has no name for the current user: add a user to the URL")
	}
	if slices.ContainsFunc(
		[]string{"pq: could not match ", "pq: weak sslmode ", "pq: min_protocol_version "}, // these messages contain only numbers and values that lib/pq supports
		func(known string) bool { return strings.HasPrefix(text, known) },
	) {
		return fmt.Errorf("the options of the database URL contradict each other: %s", strings.TrimPrefix(text, "pq: "))
	}
	return errUnparsable
}
