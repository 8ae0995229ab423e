// Package process runs a child process that cannot outlive its parent. The servers of the demo and of the end-to-end tests
// (Postgres, Envoy) are real daemons. None of them may be left after a test panics, or after the user closes the terminal.
//
// A child has its own process group, so Ctrl-C in the terminal reaches only the parent. The parent then stops its children in the
// right order. On Linux the kernel kills the child when the parent dies for any reason.
package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Config is the configuration of a process. Only Path is required.
type Config struct {
	Path string
	Args []string // arguments without the program's name
	Env  []string // environment variables; nil: those of the parent
	Dir  string   // working folder; empty: the parent's working folder
	User *User    // nil: the parent's user; only root can choose another user

	// Output receives standard output and standard error, in order, from one goroutine. Nil: they are dropped.
	Output io.Writer

	// StopSignal is the signal that asks the process to end. Nil: SIGTERM.
	StopSignal os.Signal
}

// User is the user that a process runs as, without supplementary groups.
type User struct{ UID, GID uint32 }

// Process is a started child. Any goroutine may call its methods at any time.
type Process struct {
	name   string
	cmd    *exec.Cmd
	stop   os.Signal
	output *output
	done   chan struct{}

	mu       sync.Mutex
	stopping bool
	err      error // set before done is closed
}

// tailBytes is the maximum size in bytes of the output that [Process.Err] quotes. If the output is longer, only its end is quoted.
const tailBytes = 2048

// Start starts the child and returns when its program runs. The child may not be ready then.
func Start(config Config) (*Process, error) {
	p := &Process{
		name:   filepath.Base(config.Path),
		cmd:    exec.Command(config.Path, config.Args...),
		stop:   config.StopSignal,
		output: &output{to: config.Output},
		done:   make(chan struct{}),
	}
	if p.stop == nil {
		p.stop = syscall.SIGTERM
	}
	p.cmd.Env, p.cmd.Dir = config.Env, config.Dir
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	p.cmd.SysProcAttr = attributes(config.User)
	// A grandchild that keeps the output open must not block Wait.
	p.cmd.WaitDelay = time.Second

	started := make(chan error)
	go p.run(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	return p, nil
}

// run starts the child and reaps it on one OS thread. The kernel binds the parent-death signal to the thread that started
// the child, and Go ends idle threads at any time.
func (p *Process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	err = p.cmd.Wait()
	killGroup(p.cmd.Process) // ends the processes that the child started in its group

	p.mu.Lock()
	if !p.stopping {
		p.err = p.exitError(err)
	}
	p.mu.Unlock()
	close(p.done)
}

func (p *Process) exitError(err error) error {
	if err == nil {
		return nil
	}
	if tail := p.output.tail(); tail != "" {
		return fmt.Errorf("%s ended: %w: %s", p.name, err, tail)
	}
	return fmt.Errorf("%s ended: %w", p.name, err)
}

// PID returns the child's process id, which is also its group's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done returns a channel that is closed when the child has ended and has been reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err returns an error if the child failed before Stop was called. The error contains the cause and the last lines of output. Err
// returns nil while the child runs, after exit status 0, and if the child ended after a call of Stop.
func (p *Process) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Signal sends a signal to the child, not to its group. It returns no error if the child has ended.
func (p *Process) Signal(signal os.Signal) error {
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	return nil
}

// Stop asks the child to end, and returns when the child has been reaped. If the child has not ended after the grace period, Stop
// kills the child's whole group and returns an error. Calling Stop twice is not an error.
func (p *Process) Stop(grace time.Duration) error {
	p.mu.Lock()
	p.stopping = true
	p.mu.Unlock()

	if err := p.Signal(p.stop); err != nil {
		return err
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
	}
	killGroup(p.cmd.Process)
	<-p.done
	return fmt.Errorf("%s was killed: it did not end within %s after the signal %v", p.name, grace, p.stop)
}

// output forwards the child's output and keeps its last tailBytes bytes.
type output struct {
	to io.Writer

	mu   sync.Mutex
	last []byte
}

// Write never fails. If it returned an error of Config.Output, the child could get a broken pipe and end.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	o.last = append(o.last, b...)
	if extra := len(o.last) - tailBytes; extra > 0 {
		o.last = append(o.last[:0], o.last[extra:]...)
	}
	o.mu.Unlock()
	if o.to != nil {
		_, _ = o.to.Write(b)
	}
	return len(b), nil
}

// tail returns the last whole lines as one line, for an error message.
func (o *output) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	last := o.last
	if len(last) == tailBytes { // the first line may have lost its beginning
		if _, rest, found := bytes.Cut(last, []byte("\n")); found {
			last = rest
		}
	}
	lines := strings.Split(strings.TrimSpace(string(last)), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimSpace(line)
	}
	return strings.Join(lines, " | ")
}
