// A server that restarts: clients come back by themselves, with their channels and their presence.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'

import { LIBRARIES } from './libraries.js'
import { Inbox, Server, broadcasts, subscribe } from './support.js'

let server
before(async () => (server = await Server.start()))
after(() => server?.dispose())

test('every library rejoins after a restart', async () => {
  const members = []
  for (const library of LIBRARIES) {
    const client = library.make(server)
    const channel = client.channel('restart', { config: { presence: { key: library.name, enabled: true } } })
    const inbox = broadcasts(channel)
    const syncs = new Inbox()
    channel.on('presence', { event: 'sync' }, () => syncs.push(Object.keys(channel.presenceState())))
    const states = await subscribe(channel)
    members.push({ name: library.name, client, channel, inbox, states, syncs })
  }

  await server.restart()

  for (const { name, states } of members) {
    await states.next(`${name} to join again`, ({ status }) => status === 'SUBSCRIBED', 120_000)
  }
  for (const [from, { channel }] of members.entries()) {
    assert.equal(await channel.send({ type: 'broadcast', event: 'after', payload: { from } }), 'ok')
    for (const [to, { name, inbox }] of members.entries()) {
      if (to !== from) await inbox.next(`${name} to hear ${from}`, ({ payload }) => payload.from === from)
    }
  }
  for (const { name, channel, syncs } of members) {
    assert.equal(await channel.track({ back: true }), 'ok')
    await syncs.next(`${name} to see itself`, (keys) => keys.includes(name))
  }
  for (const { client } of members) await client.realtime.disconnect()
})
