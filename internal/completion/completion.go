// Package completion completes command lines in a shell. The scripts for bash, zsh and fish call keywicket with the words of the
// command line, and keywicket finds the possible words in kong's model of its commands and flags. So a new command needs no code
// here, and completion uses neither a configuration nor a database.
//
// kong has no completion. The libraries for it (kongplete, kong-completion) had no release since 2023, and need three more modules.
package completion

import (
	"embed"
	"strings"

	"github.com/alecthomas/kong"
)

//go:embed keywicket.*
var scripts embed.FS

// Script returns the completion script for a shell: bash, zsh or fish.
func Script(shell string) (string, error) {
	script, err := scripts.ReadFile("keywicket." + shell)
	return string(script), err
}

// Words returns the words that can replace the last of the words. The parameter `words` contains the arguments of the command line
// up to the cursor; the last one may be empty or incomplete. The result is empty if the model defines no values for this place. The
// shell then completes the names of files.
func Words(app *kong.Application, words []string) []string {
	if len(words) == 0 {
		return nil
	}
	words, split := joinValues(words)
	before, last := words[:len(words)-1], words[len(words)-1]
	node, positions := app.Node, 0
	var valueOf *kong.Flag // the flag whose value is the next word
	for _, word := range before {
		child := find(node, word)
		switch {
		case valueOf != nil:
			valueOf = nil
		case word == "--":
			return nil
		case strings.HasPrefix(word, "-"):
			valueOf = valueFlag(node, word)
		case child != nil:
			node = child
		case positions < len(node.Positional):
			positions++
		default:
			return nil // an unknown command
		}
	}
	flag, _, assigned := strings.Cut(last, "=")
	var found []string
	switch {
	case valueOf != nil:
		found = values(valueOf.Value)
	case assigned && strings.HasPrefix(last, "-"):
		if f := valueFlag(node, flag); f != nil {
			for _, value := range values(f.Value) {
				found = append(found, flag+"="+value)
			}
		}
	case strings.HasPrefix(last, "-"):
		for _, group := range node.AllFlags(true) {
			for _, f := range group {
				found = append(found, "--"+f.Name)
			}
		}
	case positions < len(node.Positional):
		found = values(node.Positional[positions])
	default:
		for _, child := range node.Children {
			if !child.Hidden {
				found = append(found, child.Name)
			}
		}
	}
	var matching []string
	for _, word := range found {
		if strings.HasPrefix(word, last) {
			if split {
				word = strings.TrimPrefix(word, flag+"=")
			}
			matching = append(matching, word)
		}
	}
	return matching
}

// joinValues joins the words --flag, =, value, into which bash splits --flag=value. The result `split` means that it has joined the
// last word, so that bash replaces only the value.
func joinValues(words []string) (joined []string, split bool) {
	for i, word := range words {
		afterEquals := i > 1 && words[i-1] == "=" && strings.HasPrefix(words[i-2], "--")
		split = afterEquals || i > 0 && word == "=" && strings.HasPrefix(words[i-1], "--")
		if split {
			joined[len(joined)-1] += word
			continue
		}
		joined = append(joined, word)
	}
	return joined, split
}

// find returns the command with the name below the node, or nil.
func find(node *kong.Node, name string) *kong.Node {
	for _, child := range node.Children {
		if child.Name == name {
			return child
		}
	}
	return nil
}

// valueFlag returns the flag with the name, such as --output, if it is a flag of the node and has a value.
func valueFlag(node *kong.Node, name string) *kong.Flag {
	for _, group := range node.AllFlags(true) {
		for _, f := range group {
			if "--"+f.Name == name && !f.IsBool() && !f.IsCounter() {
				return f
			}
		}
	}
	return nil
}

// values returns the values that the model lists for a flag or an argument.
func values(v *kong.Value) []string {
	var list []string
	if v.Enum != "" {
		for _, value := range v.EnumSlice() {
			if value != "" { // the empty value means that the flag is not given
				list = append(list, value)
			}
		}
	}
	return list
}
