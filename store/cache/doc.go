// Package cache keeps a directory's answers in memory while they are known to be current. It reads a log of changes from the
// database several times a second. While the log is read in time, an answer from memory is what the database would answer, at most
// StalenessBound late. Otherwise every look-up queries the database.
//
// Three mechanisms keep an answer correct:
//
//   - generations: an answer is used only if nothing that it depends on has changed since its load began. A load that overlaps
//     a change is therefore discarded;
//   - the epoch: when changes may be missing from the log, all answers loaded before are discarded;
//   - the lease: a reading of the log that was sent at time t returns every change that was committed by t. So answers from
//     memory may be used until t plus the bound, and no longer.
package cache
