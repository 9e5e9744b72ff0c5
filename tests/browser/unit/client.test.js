// The client and its channels on a socket that the test plays the server of, with a clock that the test moves.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Client } from '../../../src/control/pages/site/lib/client.js'
import { FakeSocket, settled } from './socket.js'

function start(context, options = {}) {
  context.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] })
  FakeSocket.made = []
  const client = new Client({ host: 'http://localhost:4000', token: 'T', WebSocket: FakeSocket, ...options })
  const states = []
  client.on('state', ({ state }) => states.push(state))
  return { client, states, tick: (ms) => context.mock.timers.tick(ms), socket: () => FakeSocket.made.at(-1) }
}

async function joined(context, options = {}, clientOptions = {}) {
  const world = start(context, clientOptions)
  const channel = world.client.channel('room', options)
  world.client.connect()
  channel.join()
  world.socket().open()
  world.socket().answer('phx_join')
  await settled()
  assert.equal(channel.state, 'joined')
  return { ...world, channel }
}

test('the address carries token, level and version', (context) => {
  const { client, socket } = start(context, { logLevel: 'info' })
  client.connect()
  assert.equal(socket().url, 'ws://localhost:4000/realtime/v1/websocket?apikey=T&log_level=info&vsn=2.0.0')
})

test('a channel joins when the connection is there', async (context) => {
  const { socket, states, channel } = await joined(context, { isPrivate: true, self: true, accessToken: 'B', presence: { enabled: true, key: 'k' } })
  const [joinRef, ref, topic, , payload] = socket().last('phx_join')
  assert.equal(joinRef, ref)
  assert.equal(topic, 'realtime:room')
  assert.deepEqual(payload, {
    config: { broadcast: { ack: false, self: true }, presence: { key: 'k', enabled: true }, postgres_changes: [], private: true },
    access_token: 'B',
  })
  assert.deepEqual(states, ['connecting', 'connected'])
  assert.equal(channel.state, 'joined')
})

test('a refused join tells its reason, and is tried again only when that is wanted', async (context) => {
  for (const retryRefused of [true, false]) {
    const { client, socket, tick } = start(context, { backoffMs: [1_000] })
    const channel = client.channel('room', { retryRefused })
    const reasons = []
    channel.on('refused', ({ reason }) => reasons.push(reason))
    client.connect()
    channel.join()
    socket().open()
    socket().answer('phx_join', 'error', { reason: 'PrivateOnly: no' })
    await settled()
    assert.deepEqual(reasons, ['PrivateOnly: no'])
    assert.equal(channel.state, 'error')
    const before = socket().last('phx_join')[1]
    tick(1_000)
    assert.equal(socket().last('phx_join')[1] !== before, retryRefused)
    client.disconnect()
    context.mock.timers.reset()
  }
})

test('a join without an answer is given up', async (context) => {
  const { client, socket, tick } = start(context, { timeoutMs: 3_000 })
  const channel = client.channel('room', { retryRefused: false })
  const reasons = []
  channel.on('refused', ({ reason }) => reasons.push(reason))
  client.connect()
  channel.join()
  socket().open()
  socket().answer('heartbeat')
  tick(3_000)
  await settled()
  assert.deepEqual(reasons, ['timeout'])
  assert.equal(socket().last('phx_leave')[0], socket().last('phx_join')[0])
})

test('events reach the channel, those of an earlier join do not', async (context) => {
  const { socket, channel } = await joined(context)
  const heard = []
  for (const event of ['broadcast', 'change', 'system']) channel.on(event, (detail) => heard.push([event, detail]))
  const topic = 'realtime:room'
  socket().say(null, null, topic, 'broadcast', { type: 'broadcast', event: 'e', payload: { a: 1 } })
  socket().say(null, null, topic, 'postgres_changes', { ids: [1], data: { type: 'INSERT' } })
  socket().say(null, null, topic, 'INSERT', { type: 'INSERT' })
  socket().say('999', null, topic, 'system', { status: 'error', message: 'old' })
  socket().say(socket().last('phx_join')[0], null, topic, 'system', { status: 'ok', message: 'new' })
  assert.deepEqual(heard.map(([event]) => event), ['broadcast', 'change', 'change', 'system'])
  assert.deepEqual([heard[0][1].event, heard[0][1].payload], ['e', { a: 1 }])
  assert.deepEqual(heard[2][1], { ids: [], data: { type: 'INSERT' } })
  assert.equal(heard[3][1].message, 'new')
})

test('an ack resolves a broadcast, silence is a timeout', async (context) => {
  const { socket, channel, tick } = await joined(context, { ack: true })
  const first = channel.broadcast('e', {})
  const joinRef = socket().last('phx_join')[0]
  // Join is 1, the first heartbeat is 2 or the other way round: the broadcast is next.
  socket().say(joinRef, '3', 'realtime:room', 'phx_reply', { status: 'error', response: 'payload_size_exceeded' })
  assert.deepEqual({ ...(await first), ms: 0 }, { status: 'error', response: 'payload_size_exceeded', ms: 0 })
  const second = channel.broadcast('e', {})
  tick(10_000)
  assert.equal((await second).status, 'timeout')
})

test('without ack a broadcast is sent and that is all', async (context) => {
  const { socket, channel, client } = await joined(context)
  assert.equal((await channel.broadcast('e', {})).status, 'sent')
  assert.ok(socket().sent.at(-1) instanceof Uint8Array)
  client.disconnect()
  assert.equal((await channel.broadcast('e', {})).status, 'closed')
})

test('a broken connection comes back, and the channel with it', async (context) => {
  const { socket, channel, states, tick } = await joined(context, {}, { backoffMs: [1_000, 2_000] })
  const first = socket()
  first.end()
  assert.equal(channel.state, 'joining')
  tick(999)
  assert.equal(socket(), first)
  tick(1)
  assert.notEqual(socket(), first)
  socket().end()
  tick(1_000)
  assert.equal(FakeSocket.made.length, 2)
  tick(1_000)
  assert.equal(FakeSocket.made.length, 3)
  socket().open()
  socket().answer('phx_join')
  await settled()
  assert.equal(channel.state, 'joined')
  assert.deepEqual(states.slice(2), ['reconnecting', 'connecting', 'reconnecting', 'connecting', 'connected'])
})

test('after disconnect nothing happens any more', async (context) => {
  const { client, socket, channel, tick } = await joined(context)
  const old = socket()
  const closes = []
  client.on('close', (detail) => closes.push(detail.asked))
  client.disconnect()
  assert.equal(old.closed, 1000)
  assert.deepEqual([client.state, channel.state], ['disconnected', 'closed'])
  old.end(1000)
  tick(100_000)
  assert.equal(FakeSocket.made.length, 1)
  assert.deepEqual(closes, [true])
})

test('who gives up while it waits to connect again is left alone', async (context) => {
  const { client, socket, tick } = await joined(context)
  socket().end()
  client.disconnect()
  tick(100_000)
  assert.equal(FakeSocket.made.length, 1)
  assert.equal((await client.push({ topic: 't', event: 'e', payload: {} })).status, 'closed')
})

test('a heartbeat is timed, and its absence ends the connection', async (context) => {
  const { client, socket, tick } = start(context, { heartbeatMs: 25_000, timeoutMs: 10_000 })
  const latencies = []
  client.on('latency', ({ ms }) => latencies.push(ms))
  client.connect()
  socket().open()
  socket().answer('heartbeat')
  await settled()
  assert.equal(latencies.length, 1)
  assert.ok(latencies[0] >= 0 && client.latency === latencies[0])
  tick(25_000)
  assert.equal(socket().sent.length, 2)
  tick(10_000)
  await settled()
  assert.equal(socket().closed, 1000)
  assert.equal(client.state, 'reconnecting')
})

test('leaving tells the server, and joining again works', async (context) => {
  const { socket, channel } = await joined(context)
  const left = channel.leave()
  assert.equal(channel.state, 'leaving')
  socket().answer('phx_leave')
  await left
  assert.equal(channel.state, 'closed')
  channel.join()
  socket().answer('phx_join')
  await settled()
  assert.equal(channel.state, 'joined')
  const heard = []
  channel.on('broadcast', ({ event }) => heard.push(event))
  socket().say(null, null, 'realtime:room', 'broadcast', { type: 'broadcast', event: 'e', payload: {} })
  assert.deepEqual(heard, ['e'])
})

test('a channel that the server closes stays closed, one that crashed joins again', async (context) => {
  const { client, socket, channel, tick } = await joined(context, {}, { backoffMs: [1_000] })
  const events = []
  channel.on('closed', ({ event }) => events.push(event))
  const crashed = socket().last('phx_join')[0]
  socket().say(crashed, crashed, 'realtime:room', 'phx_error', { reason: 'channel_crash' })
  assert.equal(channel.state, 'error')
  tick(1_000)
  socket().answer('phx_join')
  await settled()
  assert.equal(channel.state, 'joined')
  const joinRef = socket().last('phx_join')[0]
  socket().say(joinRef, joinRef, 'realtime:room', 'phx_close', {})
  assert.equal(channel.state, 'closed')
  const count = socket().sent.length
  tick(5_000)
  assert.equal(socket().sent.length, count)
  assert.deepEqual(events, ['phx_error', 'phx_close'])
  client.disconnect()
})

test('another token is told to the server without waiting', async (context) => {
  const { socket, channel } = await joined(context)
  channel.setToken('N')
  assert.deepEqual(socket().last('access_token')[4], { access_token: 'N' })
})

test('frames are told in both directions, also those that do not decode', async (context) => {
  const { client, socket } = await joined(context)
  const frames = []
  client.on('frame', (frame) => frames.push(frame))
  socket().dispatchEvent(Object.assign(new Event('message'), { data: '{}' }))
  client.ping()
  assert.deepEqual(frames.map(({ direction, size, message }) => [direction, size, message?.event]), [
    ['in', 2, undefined],
    ['out', 35, 'heartbeat'],
  ])
  assert.match(frames[0].problem, /array of five/)
})
