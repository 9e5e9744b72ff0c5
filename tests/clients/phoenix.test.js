// The JavaScript client of Phoenix itself, in both versions of the serializer.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'

import { Presence } from 'phoenix'

import { VERSIONS, answer, connectTo } from './phoenix.js'
import { Inbox, Server } from './support.js'

let server
before(async () => (server = await Server.start()))
after(() => server?.dispose())

const connect = (version) => connectTo(server, version)

for (const version of Object.keys(VERSIONS)) {
  test(`phoenix ${version}: join, push, leave`, async () => {
    const [one, two] = [connect(version), connect(version)]
    const config = { config: { broadcast: { ack: true } } }
    const [from, to] = [one, two].map(({ socket }) => socket.channel('realtime:phoenix', config))
    const inbox = new Inbox()
    to.on('broadcast', inbox.push)
    for (const channel of [from, to]) {
      assert.deepEqual(await answer(channel.join()), { status: 'ok', response: { postgres_changes: [] } })
    }
    const payload = { type: 'broadcast', event: 'e', payload: { a: [1, null, 'é'] } }
    assert.deepEqual(await answer(from.push('broadcast', payload)), { status: 'ok', response: {} })
    assert.deepEqual(await inbox.next('the broadcast'), payload)
    assert.equal((await answer(from.leave())).status, 'ok')
    for (const { socket } of [one, two]) socket.disconnect()
  })

  test(`phoenix ${version}: a refused join has its reason`, async () => {
    const { socket } = connect(version)
    const reply = await answer(socket.channel('realtime:').join())
    assert.deepEqual(reply, { status: 'error', response: { reason: 'TopicNameRequired: You must provide a topic name' } })
    socket.disconnect()
  })

  test(`phoenix ${version}: presence is synchronized`, async () => {
    const [one, two] = [connect(version), connect(version)]
    const join = ({ socket }, key) => {
      const channel = socket.channel('realtime:phoenix-presence', { config: { presence: { enabled: true, key } } })
      const presence = new Presence(channel)
      const views = new Inbox()
      presence.onSync(() => views.push(presence.list((name, { metas }) => [name, metas.length])))
      return { channel, views }
    }
    const [a, b] = [join(one, 'a'), join(two, 'b')]
    for (const { channel } of [a, b]) assert.equal((await answer(channel.join())).status, 'ok')
    for (const { channel } of [a, b]) {
      const track = { type: 'presence', event: 'track', payload: {} }
      assert.equal((await answer(channel.push('presence', track))).status, 'ok')
    }
    const keys = (...names) => (view) => view.map(([name]) => name).sort().join() === names.join()
    await a.views.next('both', keys('a', 'b'))
    a.views.clear()
    two.transport.cut()
    await a.views.next('the cut of a connection', keys('a'))
    for (const { socket } of [one, two]) socket.disconnect()
  })
}

test('phoenix 2.0.0: binary pushes arrive byte for byte', async () => {
  const [one, two] = [connect('2.0.0'), connect('2.0.0')]
  const [from, to] = [one, two].map(({ socket }) => socket.channel('realtime:phoenix-binary', { config: { broadcast: { ack: true } } }))
  const inbox = new Inbox()
  to.on('broadcast', inbox.push)
  for (const channel of [from, to]) assert.equal((await answer(channel.join())).status, 'ok')
  const bytes = Uint8Array.from({ length: 300 }, (_, n) => n)
  assert.equal((await answer(from.push('broadcast', bytes.buffer))).status, 'ok')
  assert.deepEqual(new Uint8Array(await inbox.next('the bytes')), bytes)
  for (const { socket } of [one, two]) socket.disconnect()
})

// Without join_refs (1.0.0) the client takes the end of the first channel for that of the second.
test('phoenix 2.0.0: a rejoin replaces the channel', async () => {
  const { socket } = connect('2.0.0')
  const first = socket.channel('realtime:again', { config: {} })
  assert.equal((await answer(first.join())).status, 'ok')
  assert.equal((await answer(first.leave())).status, 'ok')
  const second = socket.channel('realtime:again', { config: { broadcast: { self: true } } })
  const inbox = new Inbox()
  second.on('broadcast', inbox.push)
  assert.equal((await answer(second.join())).status, 'ok')
  second.push('broadcast', { event: 'e' })
  assert.deepEqual(await inbox.next('its own broadcast'), { event: 'e' })
  socket.disconnect()
})
