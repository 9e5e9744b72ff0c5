// Presence through the Supabase libraries: synchronized state, updates, leaving, a connection that is cut.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'

import { LIBRARIES } from './libraries.js'
import { Inbox, Server, subscribe } from './support.js'

let server
before(async () => (server = await Server.start()))
after(() => server?.dispose())

/** A joined member under `key`: its channel, and an inbox of its view after each sync. */
async function member(library, topic, key) {
  const client = library.make(server)
  const channel = client.channel(topic, { config: { presence: { key, enabled: true } } })
  const views = new Inbox()
  channel.on('presence', { event: 'sync' }, () => views.push(view(channel)))
  const joins = new Inbox()
  channel.on('presence', { event: 'join' }, joins.push)
  const leaves = new Inbox()
  channel.on('presence', { event: 'leave' }, leaves.push)
  await subscribe(channel)
  return { client, channel, views, joins, leaves }
}

/** Who is here, without the refs: `{key: [{...meta}]}`. */
function view(channel) {
  const plain = ({ presence_ref: _, ...meta }) => meta
  return Object.fromEntries(Object.entries(channel.presenceState()).map(([key, metas]) => [key, metas.map(plain)]))
}

const is = (expected) => (actual) => {
  try {
    assert.deepEqual(actual, expected)
    return true
  } catch {
    return false
  }
}

for (const library of LIBRARIES) {
  test(`${library.name}: all members see the same, from track to the cut of a connection`, async () => {
    const topic = `presence-${library.name}`
    const a = await member(library, topic, 'a')
    assert.equal(await a.channel.track({ name: 'Ann', n: 1 }), 'ok')
    await a.views.next('its own track', is({ a: [{ name: 'Ann', n: 1 }] }))

    const b = await member(library, topic, 'b')
    await b.views.next('the state at the join', is({ a: [{ name: 'Ann', n: 1 }] }))
    assert.equal(await b.channel.track({ name: 'Bob' }), 'ok')
    const both = { a: [{ name: 'Ann', n: 1 }], b: [{ name: 'Bob' }] }
    await a.views.next('the other', is(both))
    await b.views.next('both', is(both))
    const joined = await a.joins.next('the join', ({ key }) => key === 'b')
    assert.equal(joined.newPresences[0].name, 'Bob')

    assert.equal(await a.channel.track({ name: 'Ann', n: 2 }), 'ok')
    const updated = { a: [{ name: 'Ann', n: 2 }], b: [{ name: 'Bob' }] }
    await b.views.next('the update', is(updated))

    const again = await member(library, topic, 'a')
    assert.equal(await again.channel.track({ name: 'Ann', tab: 2 }), 'ok')
    await b.views.next('two metas of one key', is({ a: [{ name: 'Ann', n: 2 }, { name: 'Ann', tab: 2 }], b: [{ name: 'Bob' }] }))

    b.views.clear()
    again.client.transport.cut()
    await b.views.next('the cut of a connection', is(updated))

    assert.equal(await a.channel.untrack(), 'ok')
    await b.views.next('the untrack', is({ b: [{ name: 'Bob' }] }))
    const left = await b.leaves.next('the leave', ({ key, leftPresences }) => key === 'a' && leftPresences[0].n === 2)
    assert.equal(left.leftPresences[0].name, 'Ann')

    assert.equal(await b.channel.unsubscribe(), 'ok')
    await a.views.next('the end of the other channel', is({}))
    for (const { client } of [a, b, again]) await client.realtime.disconnect()
  })
}

test('libraries of all versions see each other', async () => {
  const members = []
  for (const [n, library] of LIBRARIES.entries()) members.push(await member(library, 'mixed', `k${n}`))
  for (const [n, { channel }] of members.entries()) assert.equal(await channel.track({ n }), 'ok')
  const all = Object.fromEntries(members.map((_, n) => [`k${n}`, [{ n }]]))
  for (const [n, { views }] of members.entries()) await views.next(`the view of ${n}`, is(all))
  for (const { client } of members) await client.realtime.disconnect()
})
