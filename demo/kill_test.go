package demo_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
)

// killedDemoVariable is an environment variable. If it is set, this test binary runs a demo until the test kills the process. Its
// value is the path of the sidecar's binary.
const killedDemoVariable = "KEYWICKET_TEST_VICTIM"

func runUntilKilled(sidecar string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	d, err := demo.New(ctx, demo.Config{Keywicket: sidecar})
	if err != nil {
		return err
	}
	fmt.Println("running", d.Postgres.PID(), d.Sidecar.PID(), d.Issuer.PID(), d.Envoy.PID())
	<-ctx.Done()
	return errors.New("the test did not kill the demo in time")
}

// After kill -9, the demo itself cannot clean up. Still, no process or file is left.
func TestKilledDemoLeavesNoProcess(t *testing.T) {
	dir := setTempDir(t)
	killed := exec.CommandContext(t.Context(), os.Args[0])
	killed.Env = append(os.Environ(), killedDemoVariable+"="+keywicket)
	killed.Stderr = os.Stderr
	out, err := killed.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	words := strings.Fields(line)
	if err != nil || len(words) != 5 {
		t.Fatalf("the demo prints %q, %v", line, err)
	}
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = killed.Wait() // an error is expected, because the test has killed the process
	deadline := time.Now().Add(20 * time.Second)
	for _, word := range words[1:] {
		pid, err := strconv.Atoi(word)
		if err != nil {
			t.Fatal(err)
		}
		for !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			if time.Now().After(deadline) {
				t.Fatalf("the process %d still exists", pid)
			}
			time.Sleep(10 * time.Millisecond) // poll, because the kernel reports the end of a process only to the parent of the process
		}
	}
	for {
		left, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left in the temporary folder: %v", left)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
