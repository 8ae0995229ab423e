//go:build unix

package process_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo/process"
)

// start runs a shell script, waits until the script has printed a line, and returns that line.
func start(t *testing.T, script string) (*process.Process, string) {
	t.Helper()
	r, w := io.Pipe()
	p, err := process.Start(process.Config{Path: "/bin/sh", Args: []string{"-c", script}, Output: w})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop(0) })
	lines := bufio.NewReader(r)
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }()
	return p, strings.TrimSpace(line)
}

// wantReaped fails the test if the child still exists, even as a zombie.
func wantReaped(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d is still there: %v", pid, err)
	}
}

// awaitEnd waits until an orphan has ended. The orphan may still be a zombie, because the machine's init process reaps it later.
func awaitEnd(t *testing.T, pid string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		state, err := exec.Command("ps", "-o", "stat=", "-p", pid).Output()
		if err != nil || strings.HasPrefix(string(state), "Z") {
			return
		}
	}
	t.Errorf("process %s still runs", pid)
}

func TestErrorOfAnEarlyExitHasTheLastLines(t *testing.T) {
	var out bytes.Buffer
	p, err := process.Start(process.Config{
		Path: "/bin/sh", Args: []string{"-c", "echo $WORD; echo the cause >&2; exit 3"},
		Env: []string{"WORD=hello"}, Output: &out,
	})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if want := "sh ended: exit status 3: hello | the cause"; p.Err() == nil || p.Err().Error() != want {
		t.Errorf("got %v, want %s", p.Err(), want)
	}
	if out.String() != "hello\nthe cause\n" {
		t.Errorf("output %q", out.String())
	}
	if err := p.Stop(time.Second); err != nil {
		t.Errorf("Stop after the exit: %v", err)
	}
}

func TestStopEndsTheWholeGroup(t *testing.T) {
	p, child := start(t, "sleep 60 & echo $!; wait")
	if err := p.Stop(5 * time.Second); err != nil {
		t.Error(err)
	}
	if p.Err() != nil {
		t.Errorf("Err after Stop: %v", p.Err())
	}
	wantReaped(t, p.PID())
	awaitEnd(t, child)
}

func TestStopKillsAfterTheGracePeriod(t *testing.T) {
	p, _ := start(t, "trap '' TERM; echo ready; while :; do sleep 60; done")
	err := p.Stop(10 * time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "was killed") {
		t.Errorf("got %v", err)
	}
	wantReaped(t, p.PID())
}

func TestSignalReachesTheChild(t *testing.T) {
	p, _ := start(t, "trap 'exit 7' USR1; echo ready; while :; do sleep 0.01; done")
	if err := p.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if p.Err() == nil || !strings.Contains(p.Err().Error(), "exit status 7") {
		t.Errorf("got %v", p.Err())
	}
}

func TestErrorNamesTheMissingProgram(t *testing.T) {
	_, err := process.Start(process.Config{Path: "/nowhere/daemon"})
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "daemon") {
		t.Errorf("got %v", err)
	}
}

func TestChildRunsAsAnotherUser(t *testing.T) {
	if os.Getuid() != 0 {
		_, err := process.Start(process.Config{Path: "/bin/true", User: &process.User{}})
		if !errors.Is(err, os.ErrPermission) {
			t.Errorf("as an ordinary user, got %v, want a permission error", err)
		}
		return
	}
	var out bytes.Buffer
	p, err := process.Start(process.Config{
		Path: "/bin/sh", Args: []string{"-c", "id -u; id -g"}, Dir: "/",
		User: &process.User{UID: 65534, GID: 65534}, Output: &out,
	})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if out.String() != "65534\n65534\n" {
		t.Errorf("got %q", out.String())
	}
}

// The parent is a second run of the test binary. The test kills it with SIGKILL.
func TestChildEndsWithItsParent(t *testing.T) {
	if os.Getenv("KEYWICKET_TEST_PARENT") != "" {
		_, pid := start(t, "echo $$; exec sleep 60")
		_, _ = os.Stdout.WriteString("child " + pid + "\n")
		select {}
	}
	parent := exec.Command(os.Args[0], "-test.run=^TestChildEndsWithItsParent$")
	parent.Env = append(os.Environ(), "KEYWICKET_TEST_PARENT=yes")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	pid := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if word, found := strings.CutPrefix(lines.Text(), "child "); found {
			pid = word
			break
		}
	}
	if err := parent.Process.Kill(); err != nil || pid == "" {
		t.Fatalf("pid %q, %v", pid, err)
	}
	_ = parent.Wait()
	awaitEnd(t, pid)
}
