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

// victimVariable makes this test binary a demo that waits to be killed. It holds the sidecar's binary.
const victimVariable = "KEYWICKET_TEST_VICTIM"

func beVictim(sidecar string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	d, err := demo.New(ctx, demo.Config{Keywicket: sidecar})
	if err != nil {
		return err
	}
	fmt.Println("running", d.Postgres.PID(), d.Sidecar.PID(), d.Issuer.PID(), d.Envoy.PID())
	<-ctx.Done()
	return errors.New("nobody killed the victim")
}

// kill -9 leaves no chance to clean up; nothing stays behind all the same.
func TestNothingOutlivesAKilledDemo(t *testing.T) {
	dir := temporary(t)
	victim := exec.CommandContext(t.Context(), os.Args[0])
	victim.Env = append(os.Environ(), victimVariable+"="+binary)
	victim.Stderr = os.Stderr
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	words := strings.Fields(line)
	if err != nil || len(words) != 5 {
		t.Fatalf("the victim says %q, %v", line, err)
	}
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait() // it was killed
	deadline := time.Now().Add(20 * time.Second)
	for _, word := range words[1:] {
		pid, err := strconv.Atoi(word)
		if err != nil {
			t.Fatal(err)
		}
		for !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			if time.Now().After(deadline) {
				t.Fatalf("the process %d is left", pid)
			}
			time.Sleep(10 * time.Millisecond) // the kernel tells nobody when somebody else's child has gone
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
