// Package cache stores a directory's answers in memory (cached answers), and uses them while they are known to be current. It
// reads the change log from the database several times a second. While the log is read in time, a cached answer is the database's
// answer of at most StalenessBound ago. Otherwise every look-up queries the database.
//
// Three mechanisms keep the cached answers correct:
//   - generations: a cached answer is used only if nothing that it depends on has changed since its load began. A load that overlaps
//     a change is therefore discarded;
//   - the epoch: when changes may be missing from the log, all cached answers are discarded;
//   - the lease: a reading of the log that was sent at time t returns every change that was committed by t. So cached answers
//     may be used until t plus the bound, and no longer.
package cache
