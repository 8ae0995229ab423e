// Package cache stores the answers of a directory in memory, and uses these cached answers while they are known to be current. It
// reads the change log from the database several times a second. While the log is read in time, a cached answer is an answer that
// the database would have given at most StalenessBound ago. Otherwise every look-up queries the database.
//
// Three mechanisms keep the cached answers correct:
//   - generations: a cached answer is used only if nothing that the answer depends on has changed since its load began. So if a
//     change happens during a load, the result of the load is discarded;
//   - the epoch: when changes may be missing from the log, all cached answers are discarded;
//   - the lease: if a reading of the log was sent at time t, its reply contains every change that was committed by t. So cached
//     answers may be used until t plus StalenessBound, and no longer.
package cache
