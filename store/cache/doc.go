// Package cache stores the answers to look-ups in memory, and uses a cached answer as long as the answer is known to be current.
// The package feed reads the change log from the database several times a second, and passes the changes to the cache. While the
// changes arrive in time, a cached answer is never out of date by more than StalenessBound. Otherwise, every look-up queries the
// database.
//
// Three mechanisms keep the cached answers correct:
//   - generations: a cached answer is used only if nothing that the answer depends on has changed since its load began. So if the
//     cache reads a change during a load, it does not use the result of the load for later look-ups;
//   - epochs: when changes may be missing from the log, the cache discards all cached answers, and a new epoch starts;
//   - the lease: the package feed sends a query for the log at time t. The reply contains every change that was committed by t, if
//     the log is complete. A sidecar verifies shortly before t that the log is complete. So cached answers may be used until
//     StalenessBound after the verification, and no longer.
package cache
