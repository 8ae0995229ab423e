// Package machine describes the computer that a measurement runs on.
package machine

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
)

// Describe returns the processor's model with the number of its cores, and the load average of the last minute. The load average is
// the average number of processes that run or wait to run.
func Describe() (name string, load float64, err error) {
	name, err = model()
	text, err2 := os.ReadFile("/proc/loadavg")
	if err2 == nil {
		_, err2 = fmt.Sscan(string(text), &load)
	}
	return fmt.Sprintf("%s, %d cores", name, runtime.NumCPU()), load, errors.Join(err, err2)
}

func model() (string, error) {
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if name, ok := strings.CutPrefix(lines.Text(), "model name\t: "); ok {
			return name, nil
		}
	}
	return runtime.GOARCH, lines.Err()
}
