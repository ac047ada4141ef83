package guard_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pghad/pghad/internal/guard"
)

// roleVariable makes the test binary one of the programs of a test.
const roleVariable = "GUARD_TEST_ROLE"

// orderVariable holds what the program is to do, as JSON.
const orderVariable = "GUARD_TEST_ORDER"

// order is what a program of a test does.
type order struct {
	Guard setup         `json:"guard"` // of the role guard; the others need its socket
	Left  time.Duration `json:"left"`  // of the role agent: the deadlines that it gives
	Every time.Duration `json:"every"` // and how often
	What  string        `json:"what"`  // of the role server: stubborn, orphans, zombies
}

// setup is what of a guard's Config can be told to another process.
type setup struct {
	Socket    string               `json:"socket"`
	Start     *guard.Start         `json:"start"`
	KillAfter time.Duration        `json:"kill_after"`
	Patience  time.Duration        `json:"patience"`
	Watchdog  guard.WatchdogConfig `json:"watchdog"`
}

func TestMain(m *testing.M) {
	role := os.Getenv(roleVariable)
	if role == "" {
		os.Exit(m.Run())
	}
	var o order
	err := json.Unmarshal([]byte(os.Getenv(orderVariable)), &o) //nolint:musttag // a test's own way
	code := 0
	if err == nil {
		switch role {
		case "guard":
			runtime.LockOSThread()
			code, err = guard.Run(guard.Config{
				Socket: o.Guard.Socket, Start: o.Guard.Start, KillAfter: o.Guard.KillAfter, Patience: o.Guard.Patience,
				Watchdog: o.Guard.Watchdog, Log: os.Stderr, Ready: func() { say("ready") },
			})
		case "server":
			code = beServer(o.What)
		case "agent":
			err = beAgent(o)
		case "stranger":
			_, err = guard.Dial(context.Background(), o.Guard.Socket)
		}
	}
	if err != nil {
		say("error:", err)
		code = 1
	}
	os.Exit(code)
}

func say(words ...any) { _, _ = fmt.Fprintln(os.Stdout, words...) } // the test may have ended

// beServer is what PostgreSQL is for a guard: SIGINT and SIGQUIT end it.
func beServer(what string) int {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGTERM)
	script := ""
	if strings.Contains(what, "orphans") {
		// They outlive it, in sessions of their own, and no signal but one ends them.
		script = `trap "" INT QUIT TERM HUP; for i in 1 2 3; do setsid sleep 1000 & echo orphan $!; done`
	}
	if strings.Contains(what, "zombies") {
		// Processes whose parent has ended, and who end soon after.
		script = `for i in 1 2 3 4 5; do (sleep 0.05 &) ; done`
	}
	if script != "" {
		cmd := exec.Command("sh", "-c", script)
		cmd.Stdout = os.Stdout
		if err := cmd.Run(); err != nil {
			say("error:", err)
			return 1
		}
	}
	say("ready")
	for s := range signals {
		say("signal", s)
		switch {
		case strings.Contains(what, "stubborn"):
		case s == syscall.SIGINT:
			return 0
		case s == syscall.SIGQUIT:
			return 2
		}
	}
	return 0
}

// beAgent moves the deadline on until it is killed.
func beAgent(o order) error {
	ctx := context.Background()
	client, err := guard.Dial(ctx, o.Guard.Socket)
	if err != nil {
		return err
	}
	pause := time.NewTicker(o.Every)
	for {
		at := guard.Now()
		if _, err := client.SetDeadline(ctx, guard.Deadline{Left: guard.Duration(o.Left), At: &at}); err != nil {
			return err
		}
		say("moved")
		<-pause.C
	}
}
