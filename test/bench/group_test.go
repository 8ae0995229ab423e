package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// groupFactory creates a control group with a CPU limit for each process.
type groupFactory struct {
	parent string
	limits map[string]string // file → text
	count  int
}

const (
	cgroupV1Dir = "/sys/fs/cgroup/cpu" // folder of control groups, version 1
	cgroupV2Dir = "/sys/fs/cgroup"     // folder of control groups, version 2
	period      = 100_000              // in µs, the kernel's default
)

// newGroupFactory skips the test if no limit can be set.
func newGroupFactory(t *testing.T, cores float64) *groupFactory {
	t.Helper()
	quota := strconv.Itoa(int(cores * period))
	for _, g := range []*groupFactory{
		{parent: cgroupV1Dir, limits: map[string]string{"cpu.cfs_period_us": strconv.Itoa(period), "cpu.cfs_quota_us": quota}},
		{parent: cgroupV2Dir, limits: map[string]string{"cpu.max": quota + " " + strconv.Itoa(period)}},
	} {
		if dir, err := g.create(t); err == nil {
			t.Logf("the limit is set in %s", dir)
			return g
		}
	}
	t.Skip("no control group with a CPU limit can be created: neither cgroup 1 nor cgroup 2 permits it")
	return nil
}

// create creates a control group. After the test, it waits until the processes of the group have exited, and removes the group.
func (g *groupFactory) create(t testing.TB) (dir string, err error) {
	t.Helper()
	g.count++
	dir = filepath.Join(g.parent, fmt.Sprintf("keywicket-bench-%d-%d", os.Getpid(), g.count))
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // the usual mode of a control group
		return "", err
	}
	t.Cleanup(func() {
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			err := os.Remove(dir)
			if err == nil || errors.Is(err, os.ErrNotExist) {
				return
			}
			if time.Now().After(end) {
				t.Error("the control group cannot be removed: ", err)
				return
			}
		}
	})
	for name, text := range g.limits {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// command returns a command that starts the program in its own group. The limit is set before the program starts.
func (g *groupFactory) command(t testing.TB, path string, args []string) (string, []string) {
	t.Helper()
	dir, err := g.create(t)
	if err != nil {
		t.Fatal(err)
	}
	return "sh", append([]string{"-c", `echo $$ > "$1/cgroup.procs" && shift && exec "$@"`, "sh", dir, path}, args...)
}
