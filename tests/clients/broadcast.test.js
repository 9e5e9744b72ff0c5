// Broadcast through the Supabase libraries: two and three clients, self and ack, binary payloads, REST.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'

import { LIBRARIES } from './libraries.js'
import { Server, broadcasts, subscribe } from './support.js'

let server
before(async () => (server = await Server.start()))
after(() => server?.dispose())

const PAYLOAD = { text: 'é 😀 "quoted"', list: [1, null, 1.5], nested: { deep: [[{}]] } }

for (const library of LIBRARIES) {
  test(`${library.name}: what one client sends, the others receive`, async () => {
    const clients = [1, 2, 3].map(() => library.make(server))
    const topic = `three-${library.name}`
    const channels = clients.map((client) => client.channel(topic))
    const inboxes = channels.map((channel) => broadcasts(channel, 'greeting'))
    for (const channel of channels) await subscribe(channel)
    assert.equal(await channels[0].send({ type: 'broadcast', event: 'greeting', payload: PAYLOAD }), 'ok')
    for (const inbox of inboxes.slice(1)) {
      const message = await inbox.next('the broadcast')
      assert.deepEqual(message.payload, PAYLOAD)
      assert.equal(message.event, 'greeting')
    }
    // Not to itself: the answer of another comes first.
    await channels[1].send({ type: 'broadcast', event: 'greeting', payload: { from: 1 } })
    assert.deepEqual((await inboxes[0].next('the answer')).payload, { from: 1 })
    for (const client of clients) await client.realtime.disconnect()
  })

  test(`${library.name}: self and ack`, async () => {
    const client = library.make(server)
    const channel = client.channel(`self-${library.name}`, { config: { broadcast: { self: true, ack: true } } })
    const inbox = broadcasts(channel)
    await subscribe(channel)
    for (let n = 0; n < 20; n += 1) {
      assert.equal(await channel.send({ type: 'broadcast', event: 'own', payload: { n } }), 'ok')
      assert.deepEqual((await inbox.next('the own broadcast')).payload, { n })
    }
    await client.realtime.disconnect()
  })

  test(`${library.name}: a channel that is not joined sends over REST`, async () => {
    const [sender, receiver] = [library.make(server), library.make(server)]
    const channel = receiver.channel(`rest-${library.name}`)
    const inbox = broadcasts(channel)
    await subscribe(channel)
    const result = await sender.channel(`rest-${library.name}`).send({ type: 'broadcast', event: 'rest', payload: PAYLOAD })
    assert.equal(result, 'ok')
    assert.deepEqual((await inbox.next('the broadcast')).payload, PAYLOAD)
    await receiver.realtime.disconnect()
  })

  test(`${library.name}: leaving one channel leaves the other alone`, async () => {
    const [one, two] = [library.make(server), library.make(server)]
    const [stays, goes] = [one.channel(`stays-${library.name}`), one.channel(`goes-${library.name}`)]
    const inbox = broadcasts(stays)
    await subscribe(stays)
    await subscribe(goes)
    assert.equal(await goes.unsubscribe(), 'ok')
    const other = two.channel(`stays-${library.name}`)
    await subscribe(other)
    await other.send({ type: 'broadcast', event: 'e', payload: { a: 1 } })
    assert.deepEqual((await inbox.next('the broadcast')).payload, { a: 1 })
    for (const client of [one, two]) await client.realtime.disconnect()
  })

  if (!library.binary) continue

  test(`${library.name}: binary payloads arrive byte for byte`, async () => {
    const [sender, receiver] = [library.make(server), library.make(server)]
    const [from, to] = [sender, receiver].map((client) => client.channel(`binary-${library.name}`))
    const inbox = broadcasts(to)
    await subscribe(from)
    await subscribe(to)
    const bytes = Uint8Array.from({ length: 256 }, (_, n) => n)
    for (const payload of [bytes, new Uint8Array()]) {
      await from.send({ type: 'broadcast', event: 'bytes', payload: payload.buffer })
      const message = await inbox.next('the bytes')
      assert.deepEqual(new Uint8Array(message.payload), payload)
    }
    for (const client of [sender, receiver]) await client.realtime.disconnect()
  })

  test(`${library.name}: httpSend reaches the members`, async () => {
    const [sender, receiver] = [library.make(server), library.make(server)]
    const channel = receiver.channel(`http send/${library.name}`)
    const inbox = broadcasts(channel)
    await subscribe(channel)
    const http = sender.channel(`http send/${library.name}`)
    assert.deepEqual(await http.httpSend('an/event', PAYLOAD), { success: true })
    const message = await inbox.next('the broadcast')
    assert.deepEqual([message.event, message.payload], ['an/event', PAYLOAD])
    assert.deepEqual(await http.httpSend('raw', Uint8Array.of(0, 255)), { success: true })
    assert.deepEqual(new Uint8Array((await inbox.next('the bytes')).payload), Uint8Array.of(0, 255))
    await receiver.realtime.disconnect()
  })
}

test('libraries of all versions hear each other', async () => {
  const clients = LIBRARIES.map((library) => library.make(server))
  const channels = clients.map((client) => client.channel('mixed'))
  const inboxes = channels.map((channel) => broadcasts(channel))
  for (const channel of channels) await subscribe(channel)
  for (const [from, channel] of channels.entries()) {
    await channel.send({ type: 'broadcast', event: 'hello', payload: { from } })
    for (const [to, inbox] of inboxes.entries()) {
      if (to !== from) assert.deepEqual((await inbox.next(`${from} to ${to}`)).payload, { from })
    }
  }
  for (const client of clients) await client.realtime.disconnect()
})
