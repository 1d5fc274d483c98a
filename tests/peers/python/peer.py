"""The grpcio peer: a gRPC server, a client that runs scenarios, and a load.

../README.md describes arguments and output, which are the same in all languages.
"""

import argparse
import json
import os
import random
import signal
import sys
import threading
import time
from concurrent import futures

import grpc

sys.path.insert(0, os.environ["PROBE_PROTO"])
probe, services = grpc.protos_and_services("probe.proto")

# The largest message of any scenario is 10 MB; large metadata is one of the scenarios.
LIMITS = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.max_metadata_size", 1 << 20),
    ("grpc.absolute_max_metadata_size", 1 << 20),
]


def print_line(value):
    print(json.dumps(value), flush=True)


# --- server


class Backend(services.ProbeServicer):
    def __init__(self, name, executions):
        self.name = name
        self.executions = os.open(executions, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)

    def note(self, event, call_id):
        os.write(self.executions, f"{event} {call_id}\n".encode())

    def begin(self, context, call_id):
        """Notes that a call runs; returns what must be set when it comes to its own end."""
        self.note("started", call_id)
        ended = threading.Event()

        def at_the_end():
            if not ended.is_set():
                self.note("cancelled", call_id)

        if not context.add_callback(at_the_end):
            at_the_end()
        return ended

    def reply(self, context, call_id, **fields):
        # "ipv4:10.0.0.1:1234" or "ipv6:%5Bfd00::1%5D:1234"
        peer = context.peer().split(":", 1)[1].rsplit(":", 1)[0]
        peer = peer.replace("%5B", "").replace("%5D", "").removeprefix("::ffff:").strip("[]")
        return probe.Reply(backend=self.name, peer=peer, id=call_id, **fields)

    def send_metadata(self, context, headers=True):
        received = context.invocation_metadata()
        context.set_trailing_metadata([(k, v) for k, v in received if k.startswith("x-trail-")])
        if headers:
            context.send_initial_metadata([(k, v) for k, v in received if k.startswith("x-echo-")])

    def end(self, context, ended, call):
        ended.set()
        if call.code:
            context.set_code(next(code for code in grpc.StatusCode if code.value[0] == call.code))
            context.set_details(call.message)

    def Unary(self, call, context):
        ended = self.begin(context, call.id)
        give_up = time.monotonic() + call.delay_ms / 1000
        while time.monotonic() < give_up and context.is_active():
            time.sleep(min(0.05, max(0, give_up - time.monotonic())))
        if context.is_active():
            ended.set()
        self.send_metadata(context, headers=not call.code)
        if call.code:
            self.end(context, ended, call)
            return probe.Reply()
        return self.reply(context, call.id, payload=call.payload)

    def ClientStream(self, calls, context):
        messages = received = 0
        for call in calls:
            if messages == 0:
                ended = self.begin(context, call.id)
            messages += 1
            received += len(call.payload)
        ended.set()
        return self.reply(context, call.id, messages=messages, received=received)

    def ServerStream(self, call, context):
        ended = self.begin(context, call.id)
        self.send_metadata(context)
        for sequence in range(call.replies):
            if call.delay_ms:
                time.sleep(call.delay_ms / 1000)
            if not context.is_active():
                return
            if sequence + 1 == call.replies:
                ended.set()
            yield self.reply(context, call.id, sequence=sequence, payload=call.payload)
        self.end(context, ended, call)

    def Bidi(self, calls, context):
        self.send_metadata(context)
        ended = None
        for sequence, call in enumerate(calls):
            ended = ended or self.begin(context, call.id)
            if call.code:
                self.end(context, ended, call)
                return
            yield self.reply(context, call.id, sequence=sequence, payload=call.payload)
        if ended and context.is_active():
            ended.set()


def serve(options):
    # A waiting call holds a thread: as many as the scenario `concurrent` has calls on one backend.
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=1100),
        options=LIMITS
        + [
            ("grpc.so_reuseport", 0),
            # Clients may send keepalive pings as often as the scenarios do.
            ("grpc.http2.min_ping_interval_without_data_ms", 50),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 50),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
        compression=grpc.Compression.Gzip,
    )
    services.add_ProbeServicer_to_server(Backend(options.name, options.executions), server)
    server.add_insecure_port(options.listen)
    server.start()
    terminated = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: terminated.set())
    print_line({"listening": True})
    terminated.wait()
    server.stop(grace=30).wait()


# --- client


class Tally:
    """Who answered how often, seen from whom."""

    def __init__(self):
        self.calls = 0
        self.per_backend = {}
        self.peers = set()

    def add(self, call_id, reply):
        assert reply.id == call_id, f"asked as {call_id}, answered as {reply.id}"
        self.calls += 1
        self.per_backend[reply.backend] = self.per_backend.get(reply.backend, 0) + 1
        self.peers.add(reply.peer)


def connect(target, *options, **more):
    """A channel of exactly one connection: channels with equal options would share theirs."""
    own = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]
    family = "ipv6" if target.startswith("[") else "ipv4"
    return grpc.insecure_channel(f"{family}:{target}", options=LIMITS + own + list(options), **more)


def new_call(scenario, number, payload=b"", **fields):
    return probe.Call(id=f"python-{scenario}-{os.getpid()}-{number}", payload=payload, **fields)


def pattern(seed, length):
    return random.Random(seed).randbytes(length)


def echo(stub, call, tally, **options):
    reply, information = stub.Unary.with_call(call, timeout=90, **options)
    assert reply.payload == call.payload, f"{call.id}: other bytes came back"
    tally.add(call.id, reply)
    return information


def unary(target, tally):
    with connect(target) as channel:
        stub = services.ProbeStub(channel)
        for number in range(300):
            echo(stub, new_call("unary", number, pattern(number, 100)), tally)


def many_connections(target, tally):
    for number in range(60):
        with connect(target) as channel:
            echo(services.ProbeStub(channel), new_call("many_connections", number, b"1"), tally)


def client_stream(target, tally):
    with connect(target) as channel:
        stub = services.ProbeStub(channel)
        for number in range(20):
            call = new_call("client_stream", number, pattern(number, 1000))
            reply = stub.ClientStream(iter([call] * 50), timeout=90)
            assert (reply.messages, reply.received) == (50, 50_000), f"{call.id}: {reply.messages} messages came"
            tally.add(call.id, reply)


def check_stream(call, replies, tally, on_reply=lambda sequence: None):
    first = None
    count = 0
    for sequence, reply in enumerate(replies):
        first = first or reply
        assert reply.backend == first.backend, f"{call.id}: one stream, two backends"
        assert (reply.sequence, reply.payload) == (sequence, call.payload), f"{call.id}: wrong reply"
        count += 1
        on_reply(sequence)
    assert count == 50, f"{call.id}: {count} replies"
    tally.add(call.id, first)


def server_stream(target, tally):
    with connect(target) as channel:
        stub = services.ProbeStub(channel)
        for number in range(20):
            call = new_call("server_stream", number, pattern(number, 1000), replies=50)
            check_stream(call, stub.ServerStream(call, timeout=90), tally)


def bidi(target, tally):
    with connect(target) as channel:
        stub = services.ProbeStub(channel)
        for number in range(20):
            call = new_call("bidi", number, pattern(number, 1000))
            turn = threading.Semaphore(1)

            def calls():
                for _ in range(50):
                    turn.acquire()
                    yield call

            check_stream(call, stub.Bidi(calls(), timeout=90), tally, lambda _: turn.release())


def large(target, tally):
    with connect(target) as channel:
        stub = services.ProbeStub(channel)
        for number in range(4):
            echo(stub, new_call("large", number, pattern(number, 10_000_000)), tally)


def concurrent(target, tally):
    with connect(target) as channel:
        stub = services.ProbeStub(channel)
        calls = [new_call("concurrent", number, pattern(number, 100), delay_ms=500) for number in range(1000)]
        running = [(call, stub.Unary.future(call, timeout=90)) for call in calls]
        for call, future in running:
            reply = future.result()
            assert reply.payload == call.payload, f"{call.id}: other bytes came back"
            tally.add(call.id, reply)


def joined(fields):
    """The echoed fields; those of one name in one, as a grpc-js server sends them (RFC 9110, section 5.3)."""
    found = {}
    for key, value in fields:
        if key.startswith("x-echo-"):
            found[key] = f"{found[key]}, {value}" if key in found else value
    return found


def metadata(target, tally):
    with connect(target) as channel:
        stub = services.ProbeStub(channel)
        for number in range(12):
            sent = [
                ("x-echo-text", f"plain {number}"),
                ("x-echo-text", "second value"),
                ("x-echo-every-bin", bytes(range(256))),
                ("x-echo-large", "m" * 12_000),
            ]
            information = echo(stub, new_call("metadata", number, b"7"), tally, metadata=sent)
            received = joined(information.initial_metadata())
            assert received == joined(sent), f"came back: {received}"[:300]


def expect_error(function):
    try:
        function()
    except grpc.RpcError as error:
        return error
    raise AssertionError("no error")


def deadline(target, tally):
    with connect(target) as channel:
        stub = services.ProbeStub(channel)
        for number in range(6):
            call = new_call("deadline", number, delay_ms=30_000)
            started = time.monotonic()
            error = expect_error(lambda: stub.Unary(call, timeout=0.3))
            # A server whose timer is quicker resets the call with CANCEL, and grpcio goes by that; tonic's says CANCELLED.
            in_time = error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
            assert in_time, f"ended with {error}"
            assert 0.25 < time.monotonic() - started < 5, "not in time"
            echo(stub, new_call("after-deadline", number, b"1"), tally)


def cancel(target, tally):
    with connect(target) as channel:
        stub = services.ProbeStub(channel)
        for number in range(6):
            replies = stub.ServerStream(new_call("cancel", number, replies=1000, delay_ms=100))
            next(replies)
            replies.cancel()
            error = expect_error(lambda: list(replies))
            assert error.code() == grpc.StatusCode.CANCELLED, f"ended with {error}"
            echo(stub, new_call("after-cancel", number, b"1"), tally)


# A message that needs percent-encoding in grpc-message.
MESSAGE = "100 % so gewollt: äöü ✓"


def check_status(error, code):
    assert error.code().value[0] == code, f"asked for {code}, got {error}"
    assert error.details() == MESSAGE, f"the message came as {error.details()}"


def statuses(target, tally):
    with connect(target) as channel:
        stub = services.ProbeStub(channel)
        for code in range(1, 17):
            call = new_call("statuses", code, code=code, message=MESSAGE, replies=1)
            check_status(expect_error(lambda: stub.Unary(call, timeout=90)), code)
            call.id += "-stream"
            replies = stub.ServerStream(call, timeout=90)
            tally.add(call.id, next(replies))
            check_status(expect_error(lambda: next(replies)), code)


def trailers_only(target, tally):
    with connect(target) as channel:
        stub = services.ProbeStub(channel)
        for number in range(12):
            call = new_call("trailers_only", number, code=5, message=MESSAGE)
            error = expect_error(lambda: stub.Unary(call, timeout=90, metadata=[("x-trail-why", "because")]))
            check_status(error, 5)
            trailers = dict(error.trailing_metadata())
            assert trailers.get("x-trail-why") == "because", f"a trailer is missing: {trailers}"
            echo(stub, new_call("after-trailers-only", number, b"1"), tally)


def compression(target, tally):
    with connect(target, compression=grpc.Compression.Gzip) as channel:
        stub = services.ProbeStub(channel)
        for number in range(12):
            echo(stub, new_call("compression", number, b"compress me " * 100_000), tally)


def keepalive(target, tally):
    pings = [
        ("grpc.keepalive_time_ms", 200),
        ("grpc.keepalive_timeout_ms", 2000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    with connect(target, *pings) as channel:
        stub = services.ProbeStub(channel)
        call = new_call("keepalive", 0, b"1", replies=2, delay_ms=2000)
        first, second = stub.ServerStream(call, timeout=90)
        assert first.backend == second.backend, "one stream, two backends"
        tally.add(call.id, first)


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in [
        unary, many_connections, client_stream, server_stream, bidi, large, concurrent,
        metadata, deadline, cancel, statuses, trailers_only, compression, keepalive,
    ]
}


def run_scenario(target, name):
    tally = Tally()
    error = None
    try:
        SCENARIOS[name](target, tally)
    except Exception as raised:  # whatever it was is the scenario's result
        error = f"{type(raised).__name__}: {raised}"
    return {
        "scenario": name, "language": "python", "ok": error is None, "error": error, "calls": tally.calls,
        "per_backend": tally.per_backend, "peers": sorted(tally.peers),
    }


def run_load(options):
    lock = threading.Lock()
    tally = Tally()
    errors, messages = {}, []
    state = {"next": 0, "ended": 0, "enough": False, "slowest": 0.0}

    def until_stdin_ends():
        sys.stdin.read()
        state["enough"] = True

    if not options.calls:
        threading.Thread(target=until_stdin_ends, daemon=True).start()

    def call_until_enough(stub):
        while True:
            with lock:
                number = state["next"]
                if state["enough"] or (options.calls and number >= options.calls):
                    return
                state["next"] += 1
            call = new_call("load", number, pattern(number, 100), delay_ms=options.delay_ms)
            started = time.monotonic()
            failed = None
            try:
                reply = stub.Unary(call, timeout=options.deadline_ms / 1000)
                if reply.payload != call.payload:
                    failed = ("DATA_LOSS", f"{call.id}: other bytes came back")
            except grpc.RpcError as error:
                failed = (error.code().name, error.details())
            with lock:
                state["slowest"] = max(state["slowest"], time.monotonic() - started)
                state["ended"] += 1
                if failed:
                    errors[failed[0]] = errors.get(failed[0], 0) + 1
                    if len(messages) < 5 and failed[1] not in messages:
                        messages.append(failed[1])
                else:
                    tally.add(call.id, reply)
                if state["ended"] % 100 == 0:
                    print_line({"progress": state["ended"]})
            if failed:
                # A path that refuses at once must not be asked ten thousand times a second.
                time.sleep(0.01)

    channels = [connect(options.target) for _ in range(options.connections)]
    stubs = [services.ProbeStub(channel) for channel in channels]
    callers = [
        threading.Thread(target=call_until_enough, args=(stubs[caller % len(stubs)],))
        for caller in range(options.concurrency)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    print_line({
        "scenario": "load", "language": "python", "ok": True, "calls": state["ended"], "errors": errors,
        "messages": messages, "per_backend": tally.per_backend, "peers": sorted(tally.peers),
        "max_ms": state["slowest"] * 1000,
    })


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    server = commands.add_parser("server")
    for name in ["--listen", "--name", "--executions"]:
        server.add_argument(name, required=True)
    client = commands.add_parser("client")
    for name in ["--target", "--scenarios"]:
        client.add_argument(name, required=True)
    load = commands.add_parser("load")
    load.add_argument("--target", required=True)
    for name in ["--calls", "--concurrency", "--connections", "--deadline-ms", "--delay-ms"]:
        load.add_argument(name, type=int, required=True)
    options = parser.parse_args()
    if options.command == "server":
        serve(options)
    elif options.command == "load":
        run_load(options)
    else:
        for scenario in options.scenarios.split(","):
            print_line(run_scenario(options.target, scenario))
    # grpcio's threads may hold the interpreter for seconds at its end; all is said.
    os._exit(0)


main()
