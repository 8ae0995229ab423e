package store

// LookupQuery is for EXPLAIN.
const LookupQuery = lookupQuery
