package policies

// forget removes all decisions from the memory.
func (m *memory) forget() {
	for i := range m.slots {
		m.slots[i].Store(nil)
	}
}
