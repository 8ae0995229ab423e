// Package cache remembers a directory's answers, and never for longer than they are true. A change of the database is
// told to it by a feed of notices; as long as the feed is heard, within a bound, what is remembered is what the database
// would say. When it is not, every question goes to the database.
//
// Three things make an answer safe, whatever happens in between:
//
//   - generations: an answer counts only if nothing that it depends on was told to have changed since before it was
//     loaded, so a notice cannot be overtaken by the load that it should have stopped;
//   - the epoch: when notices may have been lost, everything loaded before is forgotten;
//   - the lease: a nonce that this process sends through the database has to come back on the feed. Then every change that
//     was committed before it was sent has been told; so the lease lasts for the bound from then on, and no longer.
package cache
