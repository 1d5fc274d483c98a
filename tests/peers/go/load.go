package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/status"

	"grpclb.io/tests/probe"
)

// A progress line is printed each so many calls.
const progress = 100

type loadPlan struct {
	target      string
	calls       uint64
	concurrency uint
	connections uint
	deadline    time.Duration
	delayMs     uint32
}

// runLoad makes a steady load of unary calls: a number of them, or until standard input ends.
func runLoad(plan loadPlan) error {
	var next, ended atomic.Uint64
	var enough atomic.Bool
	if plan.calls == 0 {
		go func() {
			io.Copy(io.Discard, os.Stdin)
			enough.Store(true)
		}()
	}
	var mutex sync.Mutex
	counted, errors, messages, slowest := newTally(), map[string]uint64{}, []string{}, time.Duration(0)

	oneCall := func(client probe.ProbeClient, number uint64) (*probe.Call, *probe.Reply, error) {
		call := newCall("load", int(number), pattern(int(number), 100))
		call.DelayMs = plan.delayMs
		ctx, cancel := context.WithTimeout(context.Background(), plan.deadline)
		defer cancel()
		reply, err := client.Unary(ctx, call)
		if err == nil {
			err = sameBytes(call, reply)
		}
		return call, reply, err
	}
	callUntilEnough := func(client probe.ProbeClient) {
		for {
			number := next.Add(1) - 1
			if enough.Load() || (plan.calls > 0 && number >= plan.calls) {
				return
			}
			started := time.Now()
			call, reply, err := oneCall(client, number)
			mutex.Lock()
			slowest = max(slowest, time.Since(started))
			if err == nil {
				err = counted.add(call.Id, reply)
			}
			if err != nil {
				errors[status.Code(err).String()]++
				if len(messages) < 5 && !slices.Contains(messages, err.Error()) {
					messages = append(messages, err.Error())
				}
			}
			mutex.Unlock()
			if count := ended.Add(1); count%progress == 0 {
				printLine(map[string]uint64{"progress": count})
			}
			if err != nil {
				// A path that refuses at once must not be asked ten thousand times a second.
				time.Sleep(10 * time.Millisecond)
			}
		}
	}

	clients := make([]probe.ProbeClient, plan.connections)
	for index := range clients {
		client, connection, err := connect(plan.target)
		if err != nil {
			return fmt.Errorf("cannot make a client: %w", err)
		}
		defer connection.Close()
		clients[index] = client
	}
	var callers sync.WaitGroup
	for caller := range plan.concurrency {
		callers.Go(func() { callUntilEnough(clients[caller%plan.connections]) })
	}
	callers.Wait()
	printLine(outcome{
		Scenario: "load", Language: "go", OK: true, Calls: ended.Load(), PerBackend: counted.perBackend,
		Peers: counted.peers, Errors: errors, Messages: messages, MaxMs: float64(slowest.Microseconds()) / 1000,
	})
	return nil
}
