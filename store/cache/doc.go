// Package cache remembers a directory's answers, and never for longer than they are true. A log of changes in the database
// is read several times a second. While it is read in time, what is remembered is what the database would say, within a
// bound. Otherwise every question goes to the database.
//
// Three things make an answer safe, whatever happens in between:
//
//   - generations: an answer counts only if nothing that it depends on was told to have changed since before it was
//     loaded. So a load that overtakes a change is void;
//   - the epoch: where changes may be missing from the log, everything loaded before is forgotten;
//   - the lease: a reading of the log that was sent at t tells every change that was committed by t. So memory may be
//     believed until t plus the bound, and no longer.
package cache
