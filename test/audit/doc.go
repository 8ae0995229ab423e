// Package audit tests that the answers of running sidecars are never older than the staleness bound. It makes every kind of
// change to the rows. Meanwhile it injects faults into the network, the processes and the database, and sends checks
// continuously. Afterwards, the judge reports each wrong answer. An answer is right if it matches a state that the rows had at
// most one staleness bound before the request, or during the request.
//
// TestAudit is the audit, and `make soak` runs it for longer. Its flags select the faults, the kinds of changes (-ways), the seed
// and the audited binary:
//
//	go test ./test/audit -run TestAudit -v -duration 1m -faults 'silence,fail over' -ways SQL,restore -log /tmp/sidecars.log
//
// TestControls builds and runs unsafe binaries, to test that the judge detects their wrong answers.
package audit
