// What a pane's client does with its settings, with a socket and an HTTP answer that the test gives.

import assert from 'node:assert/strict'
import { beforeEach, test } from 'node:test'

import { Session } from '../../../src/control/pages/site/inspector/session.js'
import { initialSettings } from '../../../src/control/pages/site/inspector/settings.js'
import { FakeSocket, settled } from './socket.js'

const SETTINGS = { ...initialSettings(), host: 'http://h:1', token: 'T' }

beforeEach((context) => {
  context.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] })
  FakeSocket.made = []
  globalThis.WebSocket = FakeSocket
  globalThis.fetch = async () => {
    throw new TypeError('nobody listens')
  }
})

/** A session, and all that it told. */
function start(settings = {}) {
  const session = new Session('me')
  const told = []
  for (const event of ['problem', 'passed', 'note', 'joined', 'channel', 'state']) session.on(event, (detail) => told.push([event, detail]))
  session.connect({ ...SETTINGS, ...settings })
  return { session, told, problems: () => told.filter(([event]) => event === 'problem').map(([, problem]) => problem) }
}

async function joined(settings) {
  const world = start(settings)
  FakeSocket.made.at(-1).open()
  FakeSocket.made.at(-1).answer('phx_join')
  await settled()
  assert.equal(world.session.channelState, 'joined')
  return world
}

/** An answer to the question why. */
const refuses = (status, error) => (globalThis.fetch = async () => new Response(JSON.stringify({ error }), { status }))

/** Lets a refusal be read: a body takes more than promises. */
const read = async () => {
  for (let turn = 0; turn < 20; turn += 1) await new Promise((resolve) => setImmediate(resolve))
}

test('a connection joins, and what it was made with is known', async () => {
  const { session, told } = await joined({ host: 'h:1', private_channel: true })
  assert.equal(session.connectedWith.host, 'http://h:1')
  assert.equal(session.joinedWith.private_channel, true)
  assert.ok(told.some(([event, detail]) => event === 'passed' && detail.where === 'channel'))
  assert.ok(told.some(([event]) => event === 'joined'))
})

test('a host that is none is a problem, and nothing is opened', () => {
  const { problems, session } = start({ host: 'http://' })
  assert.equal(problems()[0].where, 'attempt')
  assert.deepEqual([session.state, FakeSocket.made.length], ['disconnected', 0])
})

test('an address that the browser does not open is explained, and nothing waits for it', async () => {
  const where = globalThis.location
  globalThis.location = { origin: 'https://page.test' }
  globalThis.WebSocket = class {
    constructor() {
      throw new DOMException('An insecure WebSocket connection may not be initiated', 'SecurityError')
    }
  }
  try {
    const { session, problems, told } = start({ host: 'http://elsewhere.test' })
    await read()
    assert.deepEqual(problems().map(({ where }) => where), ['attempt'])
    assert.match(problems()[0].text, /came by https/)
    assert.deepEqual([session.state, session.channelState], ['disconnected', 'closed'])
    assert.ok(told.some(([event, detail]) => event === 'channel' && detail.state === 'closed'))
    // Who gives up before the reason is known hears of none.
    const other = start({ host: 'http://elsewhere.test' })
    other.session.disconnect()
    await read()
    assert.deepEqual(other.problems(), [])
  } finally {
    globalThis.location = where
  }
})

test('a refusal for good ends the attempts, another one does not', async () => {
  const check = async (status, error, state) => {
    refuses(status, error)
    const { session, problems } = start()
    FakeSocket.made.at(-1).end()
    await read()
    assert.deepEqual(problems(), [{ text: error, where: 'attempt' }])
    assert.equal(session.state, state)
    session.disconnect()
  }
  await check(401, 'Token has expired', 'disconnected')
  await check(429, 'Too many connected users', 'reconnecting')
})

test('a connection that was there is questioned only when it does not come back', async (context) => {
  const { problems } = await joined()
  FakeSocket.made.at(-1).end(1012)
  const texts = () => problems().map(({ text }) => text)
  assert.deepEqual(texts(), ['Connection closed with code 1012.'])
  for (let attempt = 0; attempt < 3; attempt += 1) {
    context.mock.timers.tick(10_000)
    FakeSocket.made.at(-1).end()
    await read()
  }
  assert.equal(problems().length, 1)
  context.mock.timers.tick(10_000)
  FakeSocket.made.at(-1).end()
  await read()
  assert.match(texts().at(-1), /Nothing answers at http:\/\/h:1/)
})

test('a refused join waits for somebody to try again', async (context) => {
  const { session, problems } = start()
  const socket = FakeSocket.made.at(-1)
  socket.open()
  socket.answer('phx_join', 'error', { reason: 'PrivateOnly: no' })
  await settled()
  assert.deepEqual(problems(), [{ text: 'PrivateOnly: no', where: 'channel' }])
  const before = socket.sent.length
  context.mock.timers.tick(20_000)
  assert.ok(socket.sent.slice(before).every((data) => !data.includes('phx_join')))
  session.join({ ...SETTINGS, private_channel: true })
  assert.equal(socket.last('phx_join')[4].config.private, true)
})

test('another channel takes the place of the one before', async () => {
  const { session } = await joined()
  const socket = FakeSocket.made.at(-1)
  session.join({ ...SETTINGS, channel: 'other' })
  assert.equal(socket.last('phx_leave')[2], 'realtime:room_a')
  assert.equal(socket.last('phx_join')[2], 'realtime:other')
  socket.answer('phx_leave')
  socket.answer('phx_join')
  await settled()
  assert.equal(session.channelState, 'joined')
})

test('system messages are problems, or end them', async () => {
  const { told } = await joined()
  const socket = FakeSocket.made.at(-1)
  const joinRef = socket.last('phx_join')[0]
  const say = (extension, status, message) => socket.say(joinRef, null, 'realtime:room_a', 'system', { extension, status, message })
  told.length = 0
  say('postgres_changes', 'error', 'Error parsing `filter` params: x')
  say('postgres_changes', 'ok', 'Subscribed to PostgreSQL')
  say('system', 'error', 'Too many messages per second')
  say('system', 'ok', 'Replication connection established')
  say('system', 'ok', 'Server requested disconnect')
  assert.deepEqual(told, [
    ['problem', { text: 'Error parsing `filter` params: x', where: 'changes' }],
    ['passed', { where: 'changes' }],
    ['problem', { text: 'Too many messages per second', where: 'channel' }],
    ['problem', { text: 'Server requested disconnect', where: 'connection' }],
  ])
})

test('a pushed token counts from then on', async () => {
  const { session } = await joined()
  session.pushToken({ ...SETTINGS, bearer: 'B' })
  assert.deepEqual(FakeSocket.made.at(-1).last('access_token')[4], { access_token: 'B' })
  assert.equal(session.joinedWith.bearer, 'B')
})
