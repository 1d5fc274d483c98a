// The @grpc/grpc-js peer: a gRPC server, a client that runs scenarios, and a load. ../README.md describes arguments and
// output, which are the same in all languages.
'use strict';

const assert = require('node:assert');
const fs = require('node:fs');
const path = require('node:path');
const { parseArgs } = require('node:util');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const definition = protoLoader.loadSync(path.join(process.env.PROBE_PROTO, 'probe.proto'), {
  keepCase: true,
  longs: Number,
  defaults: true,
});
const { Probe } = grpc.loadPackageDefinition(definition).grpclb.probe;

// The largest message of any scenario is 10 MB; large metadata is one of the scenarios.
const LIMITS = {
  'grpc.max_receive_message_length': 64 << 20,
  'grpc.max_send_message_length': 64 << 20,
  'grpc.max_metadata_size': 1 << 20,
};
const GZIP = 2;

const printLine = (value) => fs.writeSync(1, JSON.stringify(value) + '\n');
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// --- server

function serve(options) {
  const file = fs.openSync(options.executions, 'a');
  const note = (event, id) => fs.writeSync(file, `${event} ${id}\n`);
  // Notes that a call runs, and its cancellation, if that is how it ends.
  const begin = (call, id) => {
    note('started', id);
    call.on('cancelled', () => note('cancelled', id));
  };
  const withPrefix = (metadata, prefix) => {
    const found = new grpc.Metadata();
    for (const key of Object.keys(metadata.getMap())) {
      if (key.startsWith(prefix)) metadata.get(key).forEach((value) => found.add(key, value));
    }
    return found;
  };
  const sendHeaders = (call) => call.sendMetadata(withPrefix(call.metadata, 'x-echo-'));
  const reply = (call, id, fields) => {
    const peer = call.getPeer().replace(/:\d+$/, '').replace(/^\[|\]$/g, '').replace(/^::ffff:/, '');
    return { backend: options.name, peer, id, ...fields };
  };
  const failure = (call, request) => ({
    code: request.code,
    details: request.message,
    metadata: withPrefix(call.metadata, 'x-trail-'),
  });

  const server = new grpc.Server({ ...LIMITS, 'grpc.default_compression_algorithm': GZIP });
  server.addService(Probe.service, {
    async Unary(call, callback) {
      const { id, payload, code, delay_ms } = call.request;
      begin(call, id);
      if (delay_ms) await sleep(delay_ms);
      if (call.cancelled) return callback({ code: grpc.status.CANCELLED });
      if (code) return callback(failure(call, call.request));
      sendHeaders(call);
      callback(null, reply(call, id, { payload }), withPrefix(call.metadata, 'x-trail-'));
    },
    ClientStream(call, callback) {
      let messages = 0;
      let received = 0;
      let id = '';
      call.on('data', (message) => {
        if (messages === 0) begin(call, message.id);
        id = message.id;
        messages += 1;
        received += message.payload.length;
      });
      call.on('end', () => callback(null, reply(call, id, { messages, received })));
    },
    async ServerStream(call) {
      const { id, payload, replies, delay_ms, code } = call.request;
      begin(call, id);
      sendHeaders(call);
      for (let sequence = 0; sequence < replies; sequence += 1) {
        if (delay_ms) await sleep(delay_ms);
        if (call.cancelled) return;
        if (!call.write(reply(call, id, { sequence, payload }))) {
          await new Promise((resolve) => {
            call.once('drain', resolve);
            call.once('cancelled', resolve);
          });
        }
      }
      if (code) call.emit('error', failure(call, call.request));
      else call.end();
    },
    Bidi(call) {
      let sequence = 0;
      sendHeaders(call);
      call.on('data', (message) => {
        if (sequence === 0) begin(call, message.id);
        if (message.code) {
          call.emit('error', failure(call, message));
          return;
        }
        call.write(reply(call, message.id, { sequence, payload: message.payload }));
        sequence += 1;
      });
      call.on('end', () => call.end());
    },
  });
  server.bindAsync(options.listen, grpc.ServerCredentials.createInsecure(), (error) => {
    if (error) throw error;
    printLine({ listening: true });
  });
  process.on('SIGTERM', () => server.tryShutdown(() => process.exit(0)));
}

// --- client

// A client of exactly one connection.
function connect(target, options = {}) {
  return new Probe(target, grpc.credentials.createInsecure(), {
    ...LIMITS,
    'grpc.use_local_subchannel_pool': 1,
    'grpc.initial_reconnect_backoff_ms': 100,
    'grpc.max_reconnect_backoff_ms': 1000,
    ...options,
  });
}

// Who answered how often, seen from whom.
class Tally {
  calls = 0;
  per_backend = {};
  peers = new Set();

  add(id, reply) {
    assert.strictEqual(reply.id, id, `asked as ${id}, answered as ${reply.id}`);
    this.calls += 1;
    this.per_backend[reply.backend] = (this.per_backend[reply.backend] ?? 0) + 1;
    this.peers.add(reply.peer);
  }

  fields() {
    return { calls: this.calls, per_backend: this.per_backend, peers: [...this.peers] };
  }
}

const newCall = (scenario, number, payload = Buffer.alloc(0), fields = {}) => ({
  id: `js-${scenario}-${process.pid}-${number}`,
  payload,
  ...fields,
});

// Bytes that differ from call to call and along the payload.
function pattern(seed, length) {
  const bytes = Buffer.alloc(length);
  let state = (seed * 2654435761 + 1) >>> 0;
  for (let index = 0; index < length; index += 1) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[index] = state >>> 24;
  }
  return bytes;
}

const inSeconds = (seconds) => ({ deadline: Date.now() + seconds * 1000 });

function unaryCall(client, call, metadata = new grpc.Metadata(), options = inSeconds(90)) {
  return new Promise((resolve, reject) => {
    let headers;
    const running = client.Unary(call, metadata, options, (error, reply) =>
      error ? reject(error) : resolve({ reply, headers }),
    );
    running.on('metadata', (received) => (headers = received));
  });
}

async function echo(client, call, tally, metadata) {
  const { reply, headers } = await unaryCall(client, call, metadata);
  assert(call.payload.equals(reply.payload), `${call.id}: other bytes came back`);
  tally.add(call.id, reply);
  return headers;
}

async function failureOf(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error('no error');
}

// Makes a scenario of one connection out of a function of a client.
const onOneConnection = (run, options) => async (target, tally) => {
  const client = connect(target, options);
  try {
    await run(client, tally);
  } finally {
    client.close();
  }
};

// Checks that a stream's replies come in order, from one backend, fifty of them.
async function checkStream(call, replies, tally, onReply = () => {}) {
  let first;
  let count = 0;
  for await (const reply of replies) {
    first ??= reply;
    assert.strictEqual(reply.backend, first.backend, `${call.id}: one stream, two backends`);
    assert.strictEqual(reply.sequence, count, `${call.id}: out of order`);
    assert(call.payload.equals(reply.payload), `${call.id}: other bytes came back`);
    count += 1;
    onReply(count);
  }
  assert.strictEqual(count, 50, `${call.id}: ${count} replies`);
  tally.add(call.id, first);
}

// A message that needs percent-encoding in grpc-message.
const MESSAGE = '100 % so gewollt: äöü ✓';

function checkStatus(error, code) {
  assert.strictEqual(error.code, code, `asked for ${code}, got ${error.message}`);
  assert.strictEqual(error.details, MESSAGE);
}

const scenarios = {
  unary: onOneConnection(async (client, tally) => {
    for (let number = 0; number < 300; number += 1) {
      await echo(client, newCall('unary', number, pattern(number, 100)), tally);
    }
  }),

  async many_connections(target, tally) {
    for (let number = 0; number < 60; number += 1) {
      const client = connect(target);
      await echo(client, newCall('many_connections', number, Buffer.from([1])), tally);
      client.close();
    }
  },

  client_stream: onOneConnection(async (client, tally) => {
    for (let number = 0; number < 20; number += 1) {
      const call = newCall('client_stream', number, pattern(number, 1000));
      const reply = await new Promise((resolve, reject) => {
        const stream = client.ClientStream(inSeconds(90), (error, answer) => (error ? reject(error) : resolve(answer)));
        for (let message = 0; message < 50; message += 1) stream.write(call);
        stream.end();
      });
      assert.deepStrictEqual([reply.messages, reply.received], [50, 50000], `${call.id}: not all came`);
      tally.add(call.id, reply);
    }
  }),

  server_stream: onOneConnection(async (client, tally) => {
    for (let number = 0; number < 20; number += 1) {
      const call = newCall('server_stream', number, pattern(number, 1000), { replies: 50 });
      await checkStream(call, client.ServerStream(call, inSeconds(90)), tally);
    }
  }),

  bidi: onOneConnection(async (client, tally) => {
    for (let number = 0; number < 20; number += 1) {
      const call = newCall('bidi', number, pattern(number, 1000));
      const stream = client.Bidi(inSeconds(90));
      stream.write(call);
      await checkStream(call, stream, tally, (count) => (count < 50 ? stream.write(call) : stream.end()));
    }
  }),

  large: onOneConnection(async (client, tally) => {
    for (let number = 0; number < 4; number += 1) {
      await echo(client, newCall('large', number, pattern(number, 10_000_000)), tally);
    }
  }),

  concurrent: onOneConnection(async (client, tally) => {
    const calls = Array.from({ length: 1000 }, (_, number) =>
      echo(client, newCall('concurrent', number, pattern(number, 100), { delay_ms: 500 }), tally),
    );
    await Promise.all(calls);
  }),

  metadata: onOneConnection(async (client, tally) => {
    const everyByte = Buffer.from(Array.from({ length: 256 }, (_, index) => index));
    for (let number = 0; number < 12; number += 1) {
      const sent = new grpc.Metadata();
      sent.add('x-echo-text', `plain ${number}`);
      sent.add('x-echo-text', 'second value');
      sent.add('x-echo-every-bin', everyByte);
      sent.add('x-echo-large', 'm'.repeat(12_000));
      const received = await echo(client, newCall('metadata', number, Buffer.from([7])), tally, sent);
      // Node joins what came as several fields of one name (RFC 9110, 5.3); grpc-js hands that on.
      assert.strictEqual(received.get('x-echo-text').join(', '), `plain ${number}, second value`);
      assert.deepStrictEqual(received.get('x-echo-large'), sent.get('x-echo-large'));
      assert.deepStrictEqual(received.get('x-echo-every-bin'), [everyByte]);
    }
  }),

  deadline: onOneConnection(async (client, tally) => {
    for (let number = 0; number < 6; number += 1) {
      const call = newCall('deadline', number, undefined, { delay_ms: 30_000 });
      const started = Date.now();
      const error = await failureOf(unaryCall(client, call, undefined, inSeconds(0.3)));
      // A server whose timer is quicker resets the call with CANCEL, and grpc-js goes by that; tonic's says CANCELLED.
      const inTime = [grpc.status.DEADLINE_EXCEEDED, grpc.status.CANCELLED].includes(error.code);
      assert(inTime, `ended with ${error.message}`);
      const took = Date.now() - started;
      assert(took > 250 && took < 5000, `took ${took} ms`);
      await echo(client, newCall('after-deadline', number, Buffer.from([1])), tally);
    }
  }),

  cancel: onOneConnection(async (client, tally) => {
    for (let number = 0; number < 6; number += 1) {
      const stream = client.ServerStream(newCall('cancel', number, undefined, { replies: 1000, delay_ms: 100 }));
      const error = await new Promise((resolve) => {
        stream.once('data', () => stream.cancel());
        stream.on('error', resolve);
      });
      assert.strictEqual(error.code, grpc.status.CANCELLED, `ended with ${error.message}`);
      await echo(client, newCall('after-cancel', number, Buffer.from([1])), tally);
    }
  }),

  statuses: onOneConnection(async (client, tally) => {
    for (let code = 1; code <= 16; code += 1) {
      const call = newCall('statuses', code, undefined, { code, message: MESSAGE, replies: 1 });
      checkStatus(await failureOf(unaryCall(client, call)), code);
      call.id += '-stream';
      const replies = [];
      const error = await new Promise((resolve, reject) => {
        const stream = client.ServerStream(call, inSeconds(90));
        stream.on('data', (reply) => replies.push(reply));
        stream.on('error', resolve);
        stream.on('end', () => setImmediate(reject, new Error('no error')));
      });
      checkStatus(error, code);
      assert.strictEqual(replies.length, 1, 'the reply before the error is missing');
      tally.add(call.id, replies[0]);
    }
  }),

  trailers_only: onOneConnection(async (client, tally) => {
    for (let number = 0; number < 12; number += 1) {
      const why = new grpc.Metadata();
      why.set('x-trail-why', 'because');
      const call = newCall('trailers_only', number, undefined, { code: 5, message: MESSAGE });
      const error = await failureOf(unaryCall(client, call, why));
      checkStatus(error, 5);
      assert.deepStrictEqual(error.metadata.get('x-trail-why'), ['because'], 'a trailer is missing');
      await echo(client, newCall('after-trailers-only', number, Buffer.from([1])), tally);
    }
  }),

  compression: onOneConnection(
    async (client, tally) => {
      for (let number = 0; number < 12; number += 1) {
        const call = newCall('compression', number, Buffer.from('compress me '.repeat(100_000)));
        await echo(client, call, tally);
      }
    },
    { 'grpc.default_compression_algorithm': GZIP },
  ),

  keepalive: onOneConnection(
    async (client, tally) => {
      const call = newCall('keepalive', 0, Buffer.from([1]), { replies: 2, delay_ms: 2000 });
      const replies = [];
      for await (const reply of client.ServerStream(call, inSeconds(90))) replies.push(reply);
      assert.strictEqual(replies.length, 2);
      assert.strictEqual(replies[0].backend, replies[1].backend, 'one stream, two backends');
      tally.add(call.id, replies[0]);
    },
    {
      'grpc.keepalive_time_ms': 200,
      'grpc.keepalive_timeout_ms': 2000,
      'grpc.keepalive_permit_without_calls': 1,
    },
  ),
};

async function runScenario(target, name) {
  const tally = new Tally();
  let error = null;
  try {
    if (!scenarios[name]) throw new Error(`no scenario is named ${name}`);
    await scenarios[name](target, tally);
  } catch (thrown) {
    error = String(thrown.message ?? thrown);
  }
  printLine({ scenario: name, language: 'js', ok: error === null, error, ...tally.fields() });
}

async function runLoad(plan) {
  const tally = new Tally();
  const errors = {};
  const messages = [];
  let [next, ended, slowest, enough] = [0, 0, 0, false];
  if (!plan.calls) {
    process.stdin.resume();
    process.stdin.on('end', () => (enough = true));
  }
  const callUntilEnough = async (client) => {
    for (;;) {
      const number = next;
      if (enough || (plan.calls && number >= plan.calls)) return;
      next += 1;
      const call = newCall('load', number, pattern(number, 100), { delay_ms: plan.delay });
      const started = Date.now();
      let failed = false;
      try {
        const { reply } = await unaryCall(client, call, undefined, { deadline: started + plan.deadline });
        assert(call.payload.equals(reply.payload), `${call.id}: other bytes came back`);
        tally.add(call.id, reply);
      } catch (error) {
        failed = true;
        const name = grpc.status[error.code] ?? 'DATA_LOSS';
        errors[name] = (errors[name] ?? 0) + 1;
        if (messages.length < 5 && !messages.includes(error.message)) messages.push(error.message);
      }
      slowest = Math.max(slowest, Date.now() - started);
      ended += 1;
      if (ended % 100 === 0) printLine({ progress: ended });
      // A path that refuses at once must not be asked ten thousand times a second.
      if (failed) await sleep(10);
    }
  };
  const clients = Array.from({ length: plan.connections }, () => connect(plan.target));
  const callers = Array.from({ length: plan.concurrency }, (_, caller) =>
    callUntilEnough(clients[caller % clients.length]),
  );
  await Promise.all(callers);
  printLine({ scenario: 'load', language: 'js', ok: true, ...tally.fields(), calls: ended, errors, messages, max_ms: slowest });
}

async function main() {
  const [command, ...args] = process.argv.slice(2);
  const names = ['listen', 'name', 'executions', 'target', 'scenarios', 'calls', 'concurrency', 'connections'];
  names.push('deadline-ms', 'delay-ms');
  const options = Object.fromEntries(names.map((name) => [name, { type: 'string' }]));
  const { values } = parseArgs({ args, options });
  if (command === 'server') return serve(values);
  if (command === 'load') {
    await runLoad({
      target: values.target,
      calls: Number(values.calls),
      concurrency: Number(values.concurrency),
      connections: Number(values.connections),
      deadline: Number(values['deadline-ms']),
      delay: Number(values['delay-ms']),
    });
  } else {
    for (const scenario of values.scenarios.split(',')) await runScenario(values.target, scenario);
  }
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
