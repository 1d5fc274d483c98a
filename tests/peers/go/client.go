package main

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"grpclb.io/tests/probe"
)

// connect makes a client of exactly one connection.
func connect(target string, options ...grpc.DialOption) (probe.ProbeClient, *grpc.ClientConn, error) {
	quick := backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}
	options = append(options,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithMaxHeaderListSize(maxHeaderList),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: quick, MinConnectTimeout: 10 * time.Second}),
	)
	connection, err := grpc.NewClient("passthrough:///"+target, options...)
	if err != nil {
		return nil, nil, err
	}
	return probe.NewProbeClient(connection), connection, nil
}

// tally counts who answered how often, seen from whom.
type tally struct {
	calls      uint64
	perBackend map[string]uint64
	peers      []string
}

func newTally() *tally {
	return &tally{perBackend: map[string]uint64{}, peers: []string{}}
}

// add counts a call by its (first) reply, which must be for the call id.
func (t *tally) add(id string, reply *probe.Reply) error {
	if reply.Id != id {
		return fmt.Errorf("asked as %s, answered as %s", id, reply.Id)
	}
	t.calls++
	t.perBackend[reply.Backend]++
	if !slices.Contains(t.peers, reply.Peer) {
		t.peers = append(t.peers, reply.Peer)
	}
	return nil
}

func newCall(scenario string, number int, payload []byte) *probe.Call {
	return &probe.Call{Id: fmt.Sprintf("go-%s-%d-%d", scenario, os.Getpid(), number), Payload: payload}
}

// pattern makes bytes that differ from call to call and along the payload.
func pattern(seed int, length int) []byte {
	payload := make([]byte, length)
	rand.New(rand.NewSource(int64(seed))).Read(payload)
	return payload
}

func sameBytes(call *probe.Call, reply *probe.Reply) error {
	if !bytes.Equal(call.Payload, reply.Payload) {
		return fmt.Errorf("%s: other bytes came back", call.Id)
	}
	return nil
}
