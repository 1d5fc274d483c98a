package main

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"grpclb.io/tests/probe"
)

type serverOptions struct {
	listen, name, executions string
	maxConnectionAge         time.Duration
	maxConcurrentStreams     uint
}

func serve(options serverOptions) error {
	executions, err := os.OpenFile(options.executions, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", options.listen)
	if err != nil {
		return err
	}
	settings := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.MaxHeaderListSize(maxHeaderList),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 50 * time.Millisecond, PermitWithoutStream: true}),
	}
	if options.maxConnectionAge > 0 {
		age := keepalive.ServerParameters{MaxConnectionAge: options.maxConnectionAge}
		settings = append(settings, grpc.KeepaliveParams(age))
	}
	if options.maxConcurrentStreams > 0 {
		settings = append(settings, grpc.MaxConcurrentStreams(uint32(options.maxConcurrentStreams)))
	}
	server := grpc.NewServer(settings...)
	probe.RegisterProbeServer(server, &backend{name: options.name, executions: executions})
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	go func() {
		<-terminated
		server.GracefulStop()
	}()
	printLine(map[string]bool{"listening": true})
	return server.Serve(listener)
}

type backend struct {
	probe.UnimplementedProbeServer
	name       string
	executions *os.File
}

// begin notes that a call runs; the function that it returns notes its cancellation, if that is how it ended.
func (b *backend) begin(ctx context.Context, id string) func() {
	b.executions.WriteString("started " + id + "\n")
	return func() {
		if ctx.Err() != nil {
			b.executions.WriteString("cancelled " + id + "\n")
		}
	}
}

func (b *backend) reply(ctx context.Context, id string) *probe.Reply {
	client := ""
	if info, ok := peer.FromContext(ctx); ok {
		if address, err := netip.ParseAddrPort(info.Addr.String()); err == nil {
			client = address.Addr().Unmap().String()
		}
	}
	return &probe.Reply{Backend: b.name, Peer: client, Id: id}
}

// withPrefix returns the request metadata whose key begins with prefix.
func withPrefix(ctx context.Context, prefix string) metadata.MD {
	found := metadata.MD{}
	received, _ := metadata.FromIncomingContext(ctx)
	for key, values := range received {
		if strings.HasPrefix(key, prefix) {
			found.Append(key, values...)
		}
	}
	return found
}

func wait(ctx context.Context, delayMs uint32) error {
	if delayMs == 0 {
		return nil
	}
	select {
	case <-time.After(time.Duration(delayMs) * time.Millisecond):
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

func (b *backend) Unary(ctx context.Context, call *probe.Call) (*probe.Reply, error) {
	defer b.begin(ctx, call.Id)()
	if err := wait(ctx, call.DelayMs); err != nil {
		return nil, err
	}
	grpc.SetTrailer(ctx, withPrefix(ctx, "x-trail-"))
	if call.Code != 0 {
		return nil, status.Error(codes.Code(call.Code), call.Message)
	}
	grpc.SetHeader(ctx, withPrefix(ctx, "x-echo-"))
	reply := b.reply(ctx, call.Id)
	reply.Payload = call.Payload
	return reply, nil
}

func (b *backend) ClientStream(stream grpc.ClientStreamingServer[probe.Call, probe.Reply]) error {
	ctx := stream.Context()
	reply := b.reply(ctx, "")
	for {
		call, err := stream.Recv()
		if err == io.EOF {
			return stream.SendAndClose(reply)
		}
		if err != nil {
			return err
		}
		if reply.Messages == 0 {
			defer b.begin(ctx, call.Id)()
		}
		reply.Id = call.Id
		reply.Messages++
		reply.Received += uint64(len(call.Payload))
	}
}

func (b *backend) ServerStream(call *probe.Call, stream grpc.ServerStreamingServer[probe.Reply]) error {
	ctx := stream.Context()
	defer b.begin(ctx, call.Id)()
	stream.SetHeader(withPrefix(ctx, "x-echo-"))
	stream.SetTrailer(withPrefix(ctx, "x-trail-"))
	for sequence := uint32(0); sequence < call.Replies; sequence++ {
		if err := wait(ctx, call.DelayMs); err != nil {
			return err
		}
		reply := b.reply(ctx, call.Id)
		reply.Sequence, reply.Payload = sequence, call.Payload
		if err := stream.Send(reply); err != nil {
			return err
		}
	}
	if call.Code != 0 {
		return status.Error(codes.Code(call.Code), call.Message)
	}
	return nil
}

func (b *backend) Bidi(stream grpc.BidiStreamingServer[probe.Call, probe.Reply]) error {
	ctx := stream.Context()
	for sequence := uint32(0); ; sequence++ {
		call, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if sequence == 0 {
			defer b.begin(ctx, call.Id)()
		}
		if call.Code != 0 {
			return status.Error(codes.Code(call.Code), call.Message)
		}
		reply := b.reply(ctx, call.Id)
		reply.Sequence, reply.Payload = sequence, call.Payload
		if err := stream.Send(reply); err != nil {
			return err
		}
	}
}
