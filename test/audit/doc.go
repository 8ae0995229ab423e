// Package audit tests that running sidecars keep their staleness bound. It changes rows in every way in which a row can change.
// Meanwhile it injects faults into the network, the processes and the database, and sends checks continuously. Afterwards a judge
// finds each answer that no state within the bound explains.
//
// The audit is TestAudit, which `make soak` runs for longer. Its flags select the faults, the ways to change, the seed and the
// audited binary:
//
//	go test ./test/audit -run TestAudit -v -duration 1m -faults 'silence,fail over' -ways SQL,restore -log /tmp/sidecars.log
//
// TestControls runs binaries that are unsafe on purpose, to test that the judge detects their wrong answers.
package audit
