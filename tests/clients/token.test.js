// Tokens through the Supabase libraries: refused, refreshed, expired; private channels without a database.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'

import { LIBRARIES } from './libraries.js'
import { Inbox, Server, broadcasts, subscribe, token } from './support.js'

let server
before(async () => (server = await Server.start()))
after(() => server?.dispose())

for (const library of LIBRARIES) {
  test(`${library.name}: a refreshed token keeps its channel, an expired one ends it`, { concurrency: true }, async () => {
    const client = library.make(server)
    await client.realtime.setAuth(token('authenticated', 4))
    const channel = client.channel(`refreshed-${library.name}`, { config: { broadcast: { self: true } } })
    const inbox = broadcasts(channel)
    const system = new Inbox()
    channel.on('system', {}, system.push)
    const states = await subscribe(channel)
    await client.realtime.setAuth(token('authenticated', 8))
    // The first token has expired when the message of the second one's end comes.
    const ended = await system.next('the end of the second token')
    assert.deepEqual([ended.status, ended.message], ['error', 'Token has expired 0 seconds ago'])
    await states.next('the end of the channel', ({ status }) => status === 'CLOSED')
    assert.equal(inbox.items.length, 0)
    await client.realtime.disconnect()
  })

  test(`${library.name}: a private channel says that there is no database`, async () => {
    const client = library.make(server)
    const states = new Inbox()
    const channel = client.channel(`private-${library.name}`, { config: { private: true } })
    channel.subscribe((status, error) => states.push({ status, error }))
    const { error } = await states.next('the refusal', ({ status }) => status === 'CHANNEL_ERROR')
    const text = 'UnableToConnectToProject: Realtime was unable to connect to the project database'
    assert.ok(error?.message.includes(text), error?.message)
    await client.realtime.disconnect()
  })

  test(`${library.name}: a bad key never connects`, async () => {
    const client = library.make(server, 'no token')
    const states = new Inbox()
    const channel = client.channel(`bad-${library.name}`)
    channel.subscribe((status, error) => states.push({ status, error }))
    const { status } = await states.next('the refusal')
    assert.ok(['CHANNEL_ERROR', 'TIMED_OUT'].includes(status), status)
    await client.realtime.disconnect()
  })
}
