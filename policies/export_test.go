package policies

import "github.com/keywicket/keywicket/policies/source"

// forget removes all decisions from the memory.
func (m *memory) forget() {
	for i := range m.slots {
		m.slots[i].Store(nil)
	}
}

// readSource parses a policy without compiling it.
func readSource(c Config) (source.Source, error) {
	files, err := c.Folder()
	if err != nil {
		return source.Source{}, err
	}
	return source.Read(files)
}
