// Tokens through the Supabase libraries: refused, refreshed, expired; private channels without a database.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'

import { LIBRARIES } from './libraries.js'
import { Inbox, Server, broadcasts, subscribe, token } from './support.js'

let server
before(async () => (server = await Server.start()))
after(() => server?.dispose())

// Most of them wait.
describe('tokens', { concurrency: true }, () => {
  for (const library of LIBRARIES) {
    test(`${library.name}: a refreshed token keeps its channel, an expired one ends it`, async () => {
      const client = library.make(server)
      await client.realtime.setAuth(token('authenticated', 10))
      const channel = client.channel(`refreshed-${library.name}`, { config: { broadcast: { self: true } } })
      const inbox = broadcasts(channel)
      const system = new Inbox()
      channel.on('system', {}, system.push)
      const states = await subscribe(channel)
      const start = Date.now()
      await client.realtime.setAuth(token('authenticated', 20))
      const ended = await system.next('the end of the second token')
      assert.ok(Date.now() - start > 12_000, 'the first token ended the channel')
      assert.equal(ended.status, 'error')
      assert.match(ended.message, /^Token has expired \d seconds ago$/)
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
})
