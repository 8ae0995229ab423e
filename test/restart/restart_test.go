package restart

import (
	"syscall"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
)

// restartInTurn restarts the sidecars one after the other, as an orchestrator does: it stops a sidecar only when the previous
// sidecar is ready again. No request may fail. The optional parameter onStop runs just after a sidecar got SIGTERM. The
// optional parameter onReady runs when the sidecar is ready again.
func restartInTurn(t *testing.T, s *stack, restarts int, onStop, onReady func(*demo.Sidecar)) {
	t.Helper()
	l := s.startLoad(t)
	time.Sleep(idleTime)
	var moments []time.Duration
	var starts time.Duration
	for i := range restarts {
		sidecar := s.Sidecars[i%len(s.Sidecars)]
		if checksOf(t, sidecar) == 0 {
			t.Errorf("restart %d: the sidecar received no check after its start", i+1)
		}
		if err := sidecar.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if onStop != nil {
			onStop(sidecar)
		}
		awaitExit(t, sidecar)
		ended := l.now()
		restart(t, sidecar)
		starts += l.now() - ended
		if onReady != nil {
			onReady(sidecar)
		}
		moments = append(moments, l.now())
	}
	time.Sleep(idleTime)
	l.stopLoad()
	l.requireAllowed(t, func(request) bool { return false })
	t.Logf("%d restarts, each ready after %v; %d requests", restarts, (starts / time.Duration(restarts)).Round(time.Millisecond), len(l.requests))
	l.report(t, "a sidecar was ready", moments)
}

func TestRollingRestarts(t *testing.T) {
	s := start(t, demo.Config{Environ: []string{"KEYWICKET_LISTEN_LAME_DUCK=3s"}})
	restartInTurn(t, s, 20, nil, nil)
}

// No request fails even without retries, because Envoy's health checks detect a stopping sidecar before it exits.
func TestRestartsWithoutRetries(t *testing.T) {
	s := start(t, demo.Config{
		Environ: []string{"KEYWICKET_LISTEN_LAME_DUCK=3s"},
		EnvoyConfig: func(config []byte) []byte {
			return editConfig(t, config, func(document object) { removeRetries(document) })
		},
	})
	restartInTurn(t, s, 4, nil, nil)
}

// If a control plane removes the endpoint of an unready sidecar, neither retries nor health checks are needed. In the lame-duck
// period, a stopping sidecar still answers. This period is long enough for the control plane.
func TestRestartsBehindAControlPlane(t *testing.T) {
	plane := controlPlane{dir: t.TempDir()}
	s := start(t, demo.Config{
		Environ: []string{"KEYWICKET_LISTEN_LAME_DUCK=1s"},
		EnvoyConfig: func(config []byte) []byte {
			return editConfig(t, config, func(document object) {
				removeRetries(document)
				plane.configureEnvoy(document)
				plane.deliver(t, endpointsOf(t, config)...)
			})
		},
	})
	restartInTurn(t, s, 4, func(stopping *demo.Sidecar) {
		awaitUnready(t, stopping)
		time.Sleep(300 * time.Millisecond)
		for _, other := range s.Sidecars {
			if other != stopping {
				plane.deliver(t, other.GRPC)
			}
		}
	}, func(*demo.Sidecar) { plane.deliver(t, s.Sidecars[0].GRPC, s.Sidecars[1].GRPC) })
}

// When a sidecar is killed, only those checks may fail that the sidecar had received before.
func TestSidecarIsKilled(t *testing.T) {
	s := start(t, demo.Config{})
	l := s.startLoad(t)
	time.Sleep(idleTime)
	sidecar := s.Sidecars[1]
	if checksOf(t, sidecar) == 0 {
		t.Error("the sidecar received no check")
	}
	killed := l.now()
	if err := sidecar.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-sidecar.Done()
	exited := l.now()
	time.Sleep(idleTime)
	restart(t, sidecar)
	ready := l.now()
	time.Sleep(idleTime)
	if checksOf(t, sidecar) == 0 {
		t.Error("the sidecar received no check after its restart")
	}
	l.stopLoad()
	duringKill := func(r request) bool { return r.sent <= exited && r.answered >= killed }
	l.requireAllowed(t, duringKill)
	var lost, atRisk int
	for _, r := range l.requests {
		if duringKill(r) {
			atRisk++
			if r.failure != "" {
				lost++
			}
		}
	}
	t.Logf("%d requests overlapped the kill of the sidecar; %d of them failed; %d requests in total", atRisk, lost, len(l.requests))
	l.report(t, "the sidecar was ready", []time.Duration{ready})
}
