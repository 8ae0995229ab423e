// Package console is the database of the console: the settings pages and the management API. Its login needs only the role
// keywicket_console. Changes go through the package registry, in transactions that name their actor.
package console
