package strictyaml

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
)

// keysOf returns the keys of the struct type with this name, in alphabetical order. It looks for the type in t, and in the types of
// its parts.
func keysOf(t reflect.Type, name string) []string {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return keysOf(t.Elem(), name)
	case reflect.Struct:
	default:
		return nil
	}
	var keys []string
	for field := range t.Fields() {
		key, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		if !field.IsExported() || key == "-" {
			continue
		}
		if t.String() == name {
			keys = append(keys, cmp.Or(key, strings.ToLower(field.Name)))
		} else if found := keysOf(field.Type, name); found != nil {
			return found
		}
	}
	slices.Sort(keys)
	return keys
}
