// Package folder reads the files of a policy folder.
//
// It reads the files that `opa test -b --ignore '.*'` reads, and ignores all others. It also follows symbolic links, because
// Kubernetes mounts a ConfigMap as links. It refuses a link that leads out of the folder, because rules must not read other files
// of the sidecar. It does not ignore such a link, because a rule that denies could then be missing.
package folder

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/keywicket/keywicket/policies/fault"
)

// Folder is the content of a policy folder. All readers use the same Folder, so the tables, the rules and the hash always belong
// to the same files, even if somebody changes the files meanwhile.
type Folder struct {
	Files   []File
	Ignored []string // the names of files and folders that are not part of a policy
}

// File is a file of a policy. Its name is the path in the folder, with slashes.
type File struct {
	Name string
	Text []byte
}

// Hash returns twelve hexadecimal digits that identify the names and the content of all files.
func (f Folder) Hash() string {
	hash := sha256.New()
	for _, file := range f.Files {
		fmt.Fprintf(hash, "%s %d\n%s", file.Name, len(file.Text), file.Text)
	}
	return hex.EncodeToString(hash.Sum(nil)[:6])
}

// attempts is the number of times that Open reads a folder whose links change.
const attempts = 10

// Open reads a folder of the operating system. All files belong to one version of the folder, even if Kubernetes replaces a mounted
// ConfigMap meanwhile. The error has a line for each file and folder that Open cannot read.
func Open(dir string) (Folder, error) {
	for range attempts {
		r, err := open(dir)
		if err != nil {
			return Folder{}, err
		}
		if !r.linksChanged() {
			return r.folder, r.faults.Err()
		}
	}
	return Folder{}, errors.New("the links in the folder change while it is read: stop what changes them, and try again")
}

// open reads a folder once.
func open(dir string) (*reader, error) {
	named := dir
	dir, err := filepath.Abs(named)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return nil, unreadable(named, err)
	}
	root, err := os.OpenRoot(dir)
	if info, statErr := os.Stat(dir); statErr == nil && !info.IsDir() {
		err = syscall.ENOTDIR // OpenRoot has an error of its own for a file
	}
	if err != nil {
		return nil, unreadable(named, err)
	}
	defer func() { _ = root.Close() }()
	r := &reader{files: root.FS(), dir: dir, targets: map[string]string{}}
	r.read(".", ".", nil)
	return r, nil
}

// Read reads a folder without links, such as the built-in policy.
func Read(files fs.FS) (Folder, error) {
	r := reader{files: files}
	r.read(".", ".", nil)
	return r.folder, r.faults.Err()
}

// unreadable says why the folder itself cannot be read. The caller of Open knows the name, and removes secrets from it. So the text
// contains only the folder to which a relative name refers.
func unreadable(name string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		place := ""
		if current, err := os.Getwd(); err == nil && !filepath.IsAbs(name) {
			place = " in " + current
		}
		return fmt.Errorf("the folder does not exist%s: create it, or correct its name", place)
	case errors.Is(err, syscall.ENOTDIR):
		return errors.New("this is not a folder: name the folder that contains keywicket/ and apis/")
	}
	return fmt.Errorf("the folder cannot be read: %w", cause(err))
}

// cause returns an error without the path that it names, because a fault already names the file.
func cause(err error) error {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return pathError.Err
	}
	return err
}

// reader reads one folder.
type reader struct {
	files  fs.FS
	dir    string // the folder's path without links; empty if the folder is not in the operating system
	folder Folder
	faults fault.Errors
	// targets has the target of each link that was followed; the target is empty if the link could not be followed.
	targets map[string]string
}

func (r *reader) refuse(name, text string) {
	if name == "." {
		name = ""
	}
	r.faults = append(r.faults, fault.Fault{File: name, Text: text})
}

// read reads a folder and the folders below it. The parameter name is the folder's name in the policy. The parameter place is the
// same folder's path without links. The parameter above has the places of the folders that contain it.
func (r *reader) read(name, place string, above []string) {
	if slices.Contains(above, place) {
		r.refuse(name, "a link leads to a folder that contains the link: remove the link")
		return
	}
	entries, err := fs.ReadDir(r.files, place)
	if err != nil {
		r.refuse(name, fmt.Sprintf("the folder cannot be read: %v", cause(err)))
		return
	}
	above = append(slices.Clip(above), place)
	files, ignored := len(r.folder.Files), len(r.folder.Ignored)
	for _, entry := range entries {
		r.readEntry(path.Join(name, entry.Name()), path.Join(place, entry.Name()), entry.Type(), above)
	}
	if name != "." && len(r.folder.Files) == files && len(r.folder.Ignored) > ignored {
		r.folder.Ignored = append(r.folder.Ignored[:ignored], name) // nothing in this folder is a policy
	}
}

// readEntry reads a file or a folder, or follows a link to one.
func (r *reader) readEntry(name, place string, mode fs.FileMode, above []string) {
	if strings.HasPrefix(path.Base(name), ".") {
		r.folder.Ignored = append(r.folder.Ignored, name)
		return
	}
	outside := false
	if mode == fs.ModeSymlink {
		var err error
		if place, mode, err = r.follow(place); err != nil {
			r.refuse(name, fmt.Sprintf("the link cannot be followed: %v", cause(err)))
			return
		}
		outside = !filepath.IsLocal(place)
	}
	switch {
	case !mode.IsDir() && !isPolicy(name):
		r.folder.Ignored = append(r.folder.Ignored, name)
	case outside:
		r.refuse(name, "the link leads out of the policy folder: copy its target into the folder")
	case mode.IsDir():
		r.read(name, place, above)
	case !mode.IsRegular():
		r.refuse(name, "this is not a regular file: replace it with one, or remove it")
	default:
		text, err := fs.ReadFile(r.files, place)
		if err != nil {
			r.refuse(name, fmt.Sprintf("the file cannot be read: %v", cause(err)))
			return
		}
		r.folder.Files = append(r.folder.Files, File{name, text})
	}
}

// follow returns the place and the type of a link's target. The place starts with .. if the target is not in the folder.
func (r *reader) follow(link string) (place string, mode fs.FileMode, err error) {
	target, info, err := r.target(link)
	r.targets[link] = target
	if err != nil {
		return "", 0, err
	}
	place, err = filepath.Rel(r.dir, target)
	return filepath.ToSlash(place), info.Mode().Type(), err
}

// target returns the path of a link's target, without links. It returns an empty path if the link cannot be followed.
func (r *reader) target(link string) (string, fs.FileInfo, error) {
	link = filepath.Join(r.dir, filepath.FromSlash(link))
	info, err := os.Stat(link)
	if err != nil {
		return "", nil, err
	}
	target, err := filepath.EvalSymlinks(link)
	return target, info, err
}

// linksChanged reports whether a link that was followed has another target now.
func (r *reader) linksChanged() bool {
	for link, before := range r.targets {
		if now, _, _ := r.target(link); now != before {
			return true
		}
	}
	return false
}

// isPolicy reports whether `opa test -b` reads a file with this name.
func isPolicy(name string) bool {
	switch path.Base(name) {
	case "data.yaml", "data.yml", "data.json":
		return true
	}
	return path.Ext(name) == ".rego"
}
