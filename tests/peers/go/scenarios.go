package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"grpclb.io/tests/probe"
)

// A message that needs percent-encoding in grpc-message.
const message = "100 % so gewollt: äöü ✓"

var scenarios = map[string]func(context.Context, string, *tally) error{
	"unary": unary, "many_connections": manyConnections, "client_stream": clientStream, "server_stream": serverStream,
	"bidi": bidi, "large": large, "concurrent": concurrent, "metadata": metadataScenario, "deadline": deadline,
	"cancel": cancel, "statuses": statuses, "trailers_only": trailersOnly, "compression": compression,
	"keepalive": keepaliveScenario, "gigabyte": gigabyte, "cancel_storm": cancelStorm,
}

// runScenario runs one scenario, which checks every answer.
func runScenario(target, name string) outcome {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
	defer cancel()
	counted := newTally()
	err := fmt.Errorf("no scenario is named %s", name)
	if scenario := scenarios[name]; scenario != nil {
		err = scenario(ctx, target, counted)
	}
	result := outcome{Scenario: name, Language: "go", OK: err == nil, Calls: counted.calls, PerBackend: counted.perBackend, Peers: counted.peers}
	if err != nil {
		text := err.Error()
		result.Error = &text
	}
	return result
}

func echo(ctx context.Context, client probe.ProbeClient, call *probe.Call, counted *tally, options ...grpc.CallOption) error {
	reply, err := client.Unary(ctx, call, options...)
	if err != nil {
		return err
	}
	if err := sameBytes(call, reply); err != nil {
		return err
	}
	return counted.add(call.Id, reply)
}

func unary(ctx context.Context, target string, counted *tally) error {
	client, connection, err := connect(target)
	if err != nil {
		return err
	}
	defer connection.Close()
	for number := range 300 {
		if err := echo(ctx, client, newCall("unary", number, pattern(number, 100)), counted); err != nil {
			return err
		}
	}
	return nil
}

func manyConnections(ctx context.Context, target string, counted *tally) error {
	for number := range 60 {
		client, connection, err := connect(target)
		if err != nil {
			return err
		}
		err = echo(ctx, client, newCall("many_connections", number, []byte{1}), counted)
		connection.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func clientStream(ctx context.Context, target string, counted *tally) error {
	client, connection, err := connect(target)
	if err != nil {
		return err
	}
	defer connection.Close()
	for number := range 20 {
		call := newCall("client_stream", number, pattern(number, 1000))
		stream, err := client.ClientStream(ctx)
		if err != nil {
			return err
		}
		for range 50 {
			if err := stream.Send(call); err != nil {
				return err
			}
		}
		reply, err := stream.CloseAndRecv()
		if err != nil {
			return err
		}
		if reply.Messages != 50 || reply.Received != 50_000 {
			return fmt.Errorf("%s: %d messages came", call.Id, reply.Messages)
		}
		if err := counted.add(call.Id, reply); err != nil {
			return err
		}
	}
	return nil
}

// oneOf checks reply number sequence of a stream against the first one.
func oneOf(call *probe.Call, first, reply *probe.Reply, sequence int) error {
	if reply.Backend != first.Backend {
		return fmt.Errorf("%s: one stream, two backends", call.Id)
	}
	if reply.Sequence != uint32(sequence) {
		return fmt.Errorf("%s: reply %d came as %d", call.Id, reply.Sequence, sequence)
	}
	return sameBytes(call, reply)
}

func serverStream(ctx context.Context, target string, counted *tally) error {
	client, connection, err := connect(target)
	if err != nil {
		return err
	}
	defer connection.Close()
	for number := range 20 {
		call := newCall("server_stream", number, pattern(number, 1000))
		call.Replies = 50
		stream, err := client.ServerStream(ctx, call)
		if err != nil {
			return err
		}
		var first *probe.Reply
		for sequence := range 50 {
			reply, err := stream.Recv()
			if err != nil {
				return err
			}
			if first == nil {
				first = reply
			}
			if err := oneOf(call, first, reply, sequence); err != nil {
				return err
			}
		}
		if _, err := stream.Recv(); err != io.EOF {
			return fmt.Errorf("%s: ended with %v", call.Id, err)
		}
		if err := counted.add(call.Id, first); err != nil {
			return err
		}
	}
	return nil
}

func bidi(ctx context.Context, target string, counted *tally) error {
	client, connection, err := connect(target)
	if err != nil {
		return err
	}
	defer connection.Close()
	for number := range 20 {
		call := newCall("bidi", number, pattern(number, 1000))
		stream, err := client.Bidi(ctx)
		if err != nil {
			return err
		}
		var first *probe.Reply
		for sequence := range 50 {
			if err := stream.Send(call); err != nil {
				return err
			}
			reply, err := stream.Recv()
			if err != nil {
				return err
			}
			if first == nil {
				first = reply
			}
			if err := oneOf(call, first, reply, sequence); err != nil {
				return err
			}
		}
		stream.CloseSend()
		if _, err := stream.Recv(); err != io.EOF {
			return fmt.Errorf("%s: ended with %v", call.Id, err)
		}
		if err := counted.add(call.Id, first); err != nil {
			return err
		}
	}
	return nil
}

func large(ctx context.Context, target string, counted *tally) error {
	client, connection, err := connect(target)
	if err != nil {
		return err
	}
	defer connection.Close()
	for number := range 4 {
		if err := echo(ctx, client, newCall("large", number, pattern(number, 10_000_000)), counted); err != nil {
			return err
		}
	}
	return nil
}

func concurrent(ctx context.Context, target string, counted *tally) error {
	client, connection, err := connect(target)
	if err != nil {
		return err
	}
	defer connection.Close()
	type result struct {
		call  *probe.Call
		reply *probe.Reply
		err   error
	}
	results := make(chan result)
	for number := range 1000 {
		call := newCall("concurrent", number, pattern(number, 100))
		call.DelayMs = 500
		go func() {
			reply, err := client.Unary(ctx, call)
			results <- result{call, reply, err}
		}()
	}
	var failed error
	for range 1000 {
		result := <-results
		err := result.err
		if err == nil {
			err = sameBytes(result.call, result.reply)
		}
		if err == nil {
			err = counted.add(result.call.Id, result.reply)
		}
		if err != nil {
			failed = err
		}
	}
	return failed
}

func metadataScenario(ctx context.Context, target string, counted *tally) error {
	client, connection, err := connect(target)
	if err != nil {
		return err
	}
	defer connection.Close()
	everyByte := make([]byte, 256)
	for index := range everyByte {
		everyByte[index] = byte(index)
	}
	for number := range 12 {
		sent := metadata.Pairs(
			"x-echo-text", fmt.Sprintf("plain %d", number), "x-echo-text", "second value",
			"x-echo-every-bin", string(everyByte), "x-echo-large", strings.Repeat("m", 12_000))
		var received metadata.MD
		call := newCall("metadata", number, []byte{7})
		err := echo(metadata.NewOutgoingContext(ctx, sent), client, call, counted, grpc.Header(&received))
		if err != nil {
			return err
		}
		for key, values := range sent {
			// A grpc-js server joins fields of one name (RFC 9110, section 5.3).
			if strings.Join(values, ", ") != strings.Join(received.Get(key), ", ") {
				return fmt.Errorf("%s came back as %q", key, received.Get(key))
			}
		}
	}
	return nil
}

func deadline(ctx context.Context, target string, counted *tally) error {
	client, connection, err := connect(target)
	if err != nil {
		return err
	}
	defer connection.Close()
	for number := range 6 {
		call := newCall("deadline", number, nil)
		call.DelayMs = 30_000
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		started := time.Now()
		_, err := client.Unary(short, call)
		cancel()
		// A tonic server has a timer of its own and answers CANCELLED "Timeout expired" when that is quicker.
		if status.Code(err) != codes.DeadlineExceeded && status.Convert(err).Message() != "Timeout expired" {
			return fmt.Errorf("ended with %v", err)
		}
		if time.Since(started) > 5*time.Second {
			return fmt.Errorf("took %v", time.Since(started))
		}
		if err := echo(ctx, client, newCall("after-deadline", number, []byte{1}), counted); err != nil {
			return err
		}
	}
	return nil
}

func cancel(ctx context.Context, target string, counted *tally) error {
	client, connection, err := connect(target)
	if err != nil {
		return err
	}
	defer connection.Close()
	for number := range 6 {
		call := newCall("cancel", number, nil)
		call.Replies, call.DelayMs = 1000, 100
		cancelled, cancel := context.WithCancel(ctx)
		stream, err := client.ServerStream(cancelled, call)
		if err != nil {
			cancel()
			return err
		}
		_, err = stream.Recv()
		cancel()
		if err != nil {
			return err
		}
		for err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Canceled {
			return fmt.Errorf("ended with %v", err)
		}
		if err := echo(ctx, client, newCall("after-cancel", number, []byte{1}), counted); err != nil {
			return err
		}
	}
	return nil
}

func ensureStatus(err error, code uint32) error {
	if status.Code(err) != codes.Code(code) || status.Convert(err).Message() != message {
		return fmt.Errorf("asked for status %d, got %v", code, err)
	}
	return nil
}

func statuses(ctx context.Context, target string, counted *tally) error {
	client, connection, err := connect(target)
	if err != nil {
		return err
	}
	defer connection.Close()
	for code := uint32(1); code <= 16; code++ {
		call := newCall("statuses", int(code), nil)
		call.Code, call.Message, call.Replies = code, message, 1
		_, err := client.Unary(ctx, call)
		if err := ensureStatus(err, code); err != nil {
			return err
		}
		call.Id += "-stream"
		stream, err := client.ServerStream(ctx, call)
		if err != nil {
			return err
		}
		reply, err := stream.Recv()
		if err != nil {
			return err
		}
		_, err = stream.Recv()
		if err := ensureStatus(err, code); err != nil {
			return err
		}
		if err := counted.add(call.Id, reply); err != nil {
			return err
		}
	}
	return nil
}

func trailersOnly(ctx context.Context, target string, counted *tally) error {
	client, connection, err := connect(target)
	if err != nil {
		return err
	}
	defer connection.Close()
	for number := range 12 {
		call := newCall("trailers_only", number, nil)
		call.Code, call.Message = 5, message
		var trailer metadata.MD
		_, err := client.Unary(metadata.AppendToOutgoingContext(ctx, "x-trail-why", "because"), call, grpc.Trailer(&trailer))
		if err := ensureStatus(err, 5); err != nil {
			return err
		}
		if !slices.Equal(trailer.Get("x-trail-why"), []string{"because"}) {
			return fmt.Errorf("a trailer is missing: %v", trailer)
		}
		if err := echo(ctx, client, newCall("after-trailers-only", number, []byte{1}), counted); err != nil {
			return err
		}
	}
	return nil
}

func compression(ctx context.Context, target string, counted *tally) error {
	client, connection, err := connect(target)
	if err != nil {
		return err
	}
	defer connection.Close()
	for number := range 12 {
		call := newCall("compression", number, bytes.Repeat([]byte("compress me "), 100_000))
		if err := echo(ctx, client, call, counted, grpc.UseCompressor(gzip.Name)); err != nil {
			return err
		}
	}
	return nil
}

func keepaliveScenario(ctx context.Context, target string, counted *tally) error {
	// grpc-go sends no pings more often than every ten seconds.
	client, connection, err := connect(target, grpc.WithKeepaliveParams(keepalive.ClientParameters{
		Time: 10 * time.Second, Timeout: 2 * time.Second, PermitWithoutStream: true,
	}))
	if err != nil {
		return err
	}
	defer connection.Close()
	call := newCall("keepalive", 0, []byte{1})
	call.Replies, call.DelayMs = 2, 13_000
	stream, err := client.ServerStream(ctx, call)
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	second, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.Backend != second.Backend {
		return fmt.Errorf("one stream, two backends")
	}
	return counted.add(call.Id, first)
}

// gigabyte sends 1000 messages of 1 MB on one stream and takes as many back, both at the same time.
func gigabyte(ctx context.Context, target string, counted *tally) error {
	client, connection, err := connect(target)
	if err != nil {
		return err
	}
	defer connection.Close()
	const count, distinct = 1000, 17
	calls := make([]*probe.Call, distinct)
	for index := range calls {
		calls[index] = newCall("gigabyte", 0, pattern(index, 1_000_000))
	}
	stream, err := client.Bidi(ctx)
	if err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		for sequence := range count {
			if err := stream.Send(calls[sequence%distinct]); err != nil {
				sent <- err
				return
			}
		}
		sent <- stream.CloseSend()
	}()
	var first *probe.Reply
	for sequence := range count {
		reply, err := stream.Recv()
		if err != nil {
			return err
		}
		if first == nil {
			first = reply
		}
		if err := oneOf(calls[sequence%distinct], first, reply, sequence); err != nil {
			return err
		}
	}
	if _, err := stream.Recv(); err != io.EOF {
		return fmt.Errorf("ended with %v", err)
	}
	if err := <-sent; err != nil {
		return err
	}
	return counted.add(calls[0].Id, first)
}

// cancelStorm begins 4000 calls and gives each up at once, forty at a time. Whatever becomes of them is right.
func cancelStorm(ctx context.Context, target string, counted *tally) error {
	client, connection, err := connect(target)
	if err != nil {
		return err
	}
	defer connection.Close()
	for round := range 100 {
		cancelled, cancel := context.WithCancel(ctx)
		for number := range 40 {
			call := newCall("cancel_storm", round*40+number, nil)
			call.Replies, call.DelayMs = 10, 1000
			if _, err := client.ServerStream(cancelled, call); err == nil {
				counted.calls++
			}
		}
		cancel()
	}
	return nil
}
