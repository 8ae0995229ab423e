package database

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
)

// addService adds the options of the libpq service. The database URL or the environment variable PGSERVICE names the service.
// addService does not change options that are already set.
func (o options) addService() error {
	name := cmp.Or(o["service"], os.Getenv("PGSERVICE"))
	files := serviceFiles(o["servicefile"])
	delete(o, "service")
	delete(o, "servicefile")
	if name == "" {
		return nil
	}
	for _, file := range files {
		service, err := readService(file, name)
		if err != nil {
			return err
		}
		if service == nil {
			continue
		}
		if !service.normalize() {
			return fmt.Errorf("%s, service %s: the name or value of an option has an invalid character", file, name)
		}
		for option, value := range service {
			if _, ok := o[option]; !ok {
				o[option] = value
			}
		}
		return nil
	}
	return fmt.Errorf("the service %s, which PGSERVICE or the database URL names, is not in %s", name, strings.Join(files, " or "))
}

// serviceFiles returns the path of the user's service file, and the path of the system's service file. If PGSYSCONFDIR is not
// set, it omits the system's file, because only libpq knows the default path of this file.
func serviceFiles(configured string) []string {
	userFile := cmp.Or(configured, os.Getenv("PGSERVICEFILE"))
	if userFile == "" {
		home, err := os.UserHomeDir()
		if account, userErr := user.Current(); err != nil && userErr == nil {
			home = account.HomeDir
		}
		userFile = filepath.Join(home, ".pg_service.conf")
	}
	files := []string{userFile}
	if dir := os.Getenv("PGSYSCONFDIR"); dir != "" {
		files = append(files, filepath.Join(dir, "pg_service.conf"))
	}
	return files
}

// readService reads one section of an INI file. If the file or the section is missing, it returns nil. Errors contain no text of
// the file, because the file may contain a password.
func readService(file, name string) (options, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the service file: %w", err)
	}
	defer func() { _ = f.Close() }()
	var service options
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if line[0] == '[' && line[len(line)-1] == ']' {
			if service != nil {
				break
			}
			if strings.TrimSpace(line[1:len(line)-1]) == name {
				service = options{}
			}
			continue
		}
		if service == nil {
			continue
		}
		option, value, ok := strings.Cut(line, "=")
		option = strings.TrimSpace(option)
		switch {
		case !ok || strings.HasPrefix(line, "ldap://"):
			return nil, fmt.Errorf("%s, line %d: the line is not OPTION=VALUE", file, n)
		case option == "service" || option == "servicefile":
			return nil, fmt.Errorf("%s, line %d: a service cannot refer to another service", file, n)
		}
		service[option] = strings.TrimSpace(value)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the service file %s: %w", file, err)
	}
	return service, nil
}
