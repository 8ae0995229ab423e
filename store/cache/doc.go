// Package cache stores the answers to look-ups in memory, and uses a cached answer as long as the answer is known to be current.
// The package feed reads the change log from the database several times a second, and passes the changes to the cache. While the
// readings arrive in time, the database would have given a cached answer at most StalenessBound ago. Otherwise, every look-up
// queries the database.
//
// Three mechanisms keep the cached answers correct:
//   - generations: a cached answer is used only if nothing that the answer depends on has changed since its load began. So if the
//     cache reads a change during a load, it does not use the result of the load for later look-ups;
//   - epochs: when changes may be missing from the log, the cache discards all cached answers, and a new epoch starts;
//   - the lease: if a reading of the log was sent at time t, its reply contains every change that was committed by t, provided
//     that the log is complete. A sidecar has verified this shortly before t. So cached answers may be used until StalenessBound
//     after the verification, and no longer.
package cache
