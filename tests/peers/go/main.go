// The grpc-go peer: a gRPC server, a client that runs scenarios, and a load. ../README.md describes arguments and output,
// which are the same in all languages.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

const (
	// The largest message of any scenario is 10 MB.
	maxMessage = 64 << 20
	// Large metadata is one of the scenarios.
	maxHeaderList = 1 << 20
)

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("usage: peer server|client|load ..."))
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	switch os.Args[1] {
	case "server":
		options := serverOptions{}
		flags.StringVar(&options.listen, "listen", "", "address to listen on")
		flags.StringVar(&options.name, "name", "", "name to answer with")
		flags.StringVar(&options.executions, "executions", "", "file for the ids of calls")
		flags.DurationVar(&options.maxConnectionAge, "max-connection-age", 0, "GOAWAY after this time")
		flags.UintVar(&options.maxConcurrentStreams, "max-concurrent-streams", 0, "0: grpc-go's own")
		flags.Parse(os.Args[2:])
		fail(serve(options))
	case "client":
		target := flags.String("target", "", "address to call")
		scenarios := flags.String("scenarios", "", "names, separated by commas")
		flags.Parse(os.Args[2:])
		for _, scenario := range strings.Split(*scenarios, ",") {
			printLine(runScenario(*target, scenario))
		}
	case "load":
		plan := loadPlan{}
		var deadline, delay uint
		flags.StringVar(&plan.target, "target", "", "address to call")
		flags.Uint64Var(&plan.calls, "calls", 0, "0: until standard input ends")
		flags.UintVar(&plan.concurrency, "concurrency", 1, "calls in flight")
		flags.UintVar(&plan.connections, "connections", 1, "connections")
		flags.UintVar(&deadline, "deadline-ms", 10000, "for each call")
		flags.UintVar(&delay, "delay-ms", 0, "that the server takes")
		flags.Parse(os.Args[2:])
		plan.deadline = time.Duration(deadline) * time.Millisecond
		plan.delayMs = uint32(delay)
		fail(runLoad(plan))
	default:
		fail(fmt.Errorf("no command is named %s", os.Args[1]))
	}
}

// outcome is one line of a client's output.
type outcome struct {
	Scenario   string            `json:"scenario"`
	Language   string            `json:"language"`
	OK         bool              `json:"ok"`
	Error      *string           `json:"error"`
	Calls      uint64            `json:"calls"`
	PerBackend map[string]uint64 `json:"per_backend"`
	Peers      []string          `json:"peers"`
	Errors     map[string]uint64 `json:"errors,omitempty"`
	Messages   []string          `json:"messages,omitempty"`
	MaxMs      float64           `json:"max_ms"`
}

func printLine(value any) {
	line, err := json.Marshal(value)
	fail(err)
	fmt.Println(string(line))
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
