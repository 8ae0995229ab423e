// Package audit holds running sidecars to their bound. It changes rows in every way that a row can change, lets the network, the
// processes and the database fail meanwhile, and asks all the time. Afterwards a judge goes through what was answered, and finds
// each answer that no state within the bound explains.
//
// The audit is TestAudit, which `make soak` runs for longer. Its flags choose the faults, the ways to change, the seed and the
// keywicket that is audited:
//
//	go test ./test/audit -run TestAudit -v -duration 1m -faults 'silence,fail over' -ways SQL,restore -log /tmp/sidecars.log
//
// TestControls has keywicket unsafe on purpose, to see that the judge finds it out.
package audit
