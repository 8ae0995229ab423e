package directory

// Waiting returns the number of look-ups of keys and tokens that wait for a query.
func (d *Directory) Waiting() int {
	n := &d.lookups.tokens
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.waiting.Len()
}
