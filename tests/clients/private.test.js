// Private channels through the Supabase libraries, against a real PostgreSQL: policies by auth.uid(), broadcasts of the
// database, replay, and a token that loses its permission.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, before, test } from 'node:test'

import { LIBRARIES } from './libraries.js'
import { Postgres } from './postgres.js'
import { Inbox, Server, broadcasts, subscribe, token } from './support.js'

let postgres, server
before(async () => {
  postgres = await Postgres.start()
  server = await Server.startWith(postgres)
})
after(async () => {
  await server?.dispose()
  await postgres?.stop()
})

const PRIVATE = { private: true, broadcast: { self: true } }

/** A client of a user of its own. */
async function signedIn(library, user = randomUUID()) {
  const client = library.make(server, token('anon'))
  await client.realtime.setAuth(token('authenticated', 3600, { sub: user }))
  return { ...client, user }
}

/** A new room with these clients in it. */
function room(...clients) {
  const name = `room:${randomUUID()}`
  for (const { user } of clients) member(name, user, true)
  return name
}

function member(name, user, canWrite) {
  postgres.sql(`insert into public.members values ('${name}', '${user}', ${canWrite})`)
}

/** Fails with the reason of the refusal. */
async function refusal(channel) {
  const states = new Inbox()
  channel.subscribe((status, error) => states.push({ status, error }))
  const { status, error } = await states.next('the refusal')
  assert.equal(status, 'CHANNEL_ERROR')
  return error?.message ?? ''
}

/** Joined, and rows of the database are streamed. */
async function subscribeStreamed(channel) {
  const system = new Inbox()
  channel.on('system', {}, system.push)
  await subscribe(channel)
  const ready = await system.next('the stream', ({ extension }) => extension === 'system', 90_000)
  assert.deepEqual([ready.status, ready.message], ['ok', 'Replication connection established'])
}

for (const library of LIBRARIES) {
  const it = (sentence, run) =>
    test(`${library.name}: ${sentence}`, async () => {
      const clients = []
      const make = async (user) => {
        const client = await signedIn(library, user)
        clients.push(client)
        return client
      }
      try {
        await run(make)
      } finally {
        for (const client of clients) await client.realtime.disconnect()
      }
    })

  it('a topic is its owner\'s, by auth.uid()', async (make) => {
    const [owner, other] = [await make(), await make()]
    const topic = `user:${owner.user}`
    const text = `Unauthorized: You do not have permissions to read from this Channel topic: ${topic}`
    const refused = await refusal(other.channel(topic, { config: PRIVATE }))
    assert.ok(refused.includes(text), refused)
    const channel = owner.channel(topic, { config: PRIVATE })
    const inbox = broadcasts(channel, 'note')
    await subscribe(channel)
    await channel.send({ type: 'broadcast', event: 'note', payload: { to: 'self' } })
    assert.deepEqual((await inbox.next('the own message')).payload, { to: 'self' })
  })

  it('who may only read is heard by nobody', async (make) => {
    const [writer, reader] = [await make(), await make()]
    const topic = room(writer)
    member(topic, reader.user, false)
    const channels = [writer, reader].map((client) => client.channel(topic, { config: PRIVATE }))
    const inboxes = channels.map((channel) => broadcasts(channel))
    for (const channel of channels) await subscribe(channel)
    await channels[1].send({ type: 'broadcast', event: 'lost', payload: {} })
    if (library.binary) await assert.rejects(channels[1].httpSend('lost', {}), /Unauthorized/)
    await channels[0].send({ type: 'broadcast', event: 'heard', payload: { a: 1 } })
    for (const inbox of inboxes) assert.equal((await inbox.next('the message')).event, 'heard')
  })

  it('private and public channels of one name are apart', async (make) => {
    const [insider, outsider] = [await make(), await make()]
    const topic = room(insider)
    const [inside, outside] = [insider.channel(topic, { config: PRIVATE }), outsider.channel(topic, { config: { broadcast: { self: true } } })]
    const inboxes = [inside, outside].map((channel) => broadcasts(channel))
    for (const channel of [inside, outside]) await subscribe(channel)
    await inside.send({ type: 'broadcast', event: 'private', payload: {} })
    await outside.send({ type: 'broadcast', event: 'public', payload: {} })
    assert.equal((await inboxes[0].next('the private message')).event, 'private')
    assert.equal((await inboxes[1].next('the public message')).event, 'public')
  })

  it('realtime.send reaches private and public members', async (make) => {
    const client = await make()
    const topic = room(client)
    const config = { private: true, broadcast: { replication_ready: true } }
    const channels = [client.channel(topic, { config }), client.channel(`public ${topic}`)]
    const inboxes = channels.map((channel) => broadcasts(channel, 'from the database'))
    await subscribeStreamed(channels[0])
    await subscribe(channels[1])
    for (const [to, isPrivate] of [[topic, true], [`public ${topic}`, false]]) {
      postgres.sql(`select realtime.send('{"to": "${to}", "n": 1.50}', 'from the database', '${to}', ${isPrivate})`)
    }
    for (const [index, to] of [topic, `public ${topic}`].entries()) {
      const { event, payload, meta } = await inboxes[index].next(`the message to ${to}`)
      assert.deepEqual({ event, payload }, { event: 'from the database', payload: { to, n: 1.5, id: meta.id } })
    }
  })

  it('a trigger broadcasts the changes of a table', async (make) => {
    const client = await make()
    const topic = room(client)
    const channel = client.channel(topic, { config: { private: true, broadcast: { replication_ready: true } } })
    const inbox = broadcasts(channel)
    await subscribeStreamed(channel)
    const id = postgres.sql(`insert into public.notes (room, text) values ('${topic}', 'one') returning id`)
    postgres.sql(`update public.notes set text = 'two' where id = ${id}; delete from public.notes where id = ${id}`)
    const row = (text) => (text === null ? null : { id: Number(id), room: topic, text })
    for (const [operation, now, before] of [['INSERT', 'one', null], ['UPDATE', 'two', 'one'], ['DELETE', null, 'two']]) {
      const { event, payload } = await inbox.next(operation)
      assert.equal(event, operation)
      delete payload.id
      const expected = { operation, schema: 'public', table: 'notes', record: row(now), old_record: row(before) }
      assert.deepEqual(payload, expected)
    }
  })

  it('a replay brings what was sent before the join, oldest first', async (make) => {
    const client = await make()
    const topic = room(client)
    const since = Date.now() - 60_000
    // Whoever is there hears them from the stream. Once that is over they are the past, and come to a new member by replay only.
    const witness = (await make(client.user)).channel(topic, { config: { private: true, broadcast: { replication_ready: true } } })
    const heard = broadcasts(witness, 'past')
    await subscribeStreamed(witness)
    for (const n of [1, 2, 3]) {
      postgres.sql(`select realtime.send('{"n": ${n}}', 'past', '${topic}', true)`)
      assert.equal((await heard.next(`message ${n} of the stream`)).payload.n, n)
    }
    const channel = client.channel(topic, { config: { private: true, broadcast: { replay: { since, limit: 2 } } } })
    const inbox = broadcasts(channel, 'past')
    await subscribe(channel)
    for (const n of [2, 3]) {
      const { payload, meta } = await inbox.next(`message ${n}`)
      assert.equal(payload.n, n)
      assert.deepEqual(meta, { replayed: true, id: payload.id })
    }
    assert.equal(inbox.items.length, 0)
  })

  it('a token that may not read any more ends its channel', async (make) => {
    const client = await make()
    const topic = `user:${client.user}`
    const channel = client.channel(topic, { config: PRIVATE })
    const system = new Inbox()
    channel.on('system', {}, system.push)
    const states = await subscribe(channel)
    // The same user again: nothing happens to the channel.
    await client.realtime.setAuth(token('authenticated', 3000, { sub: client.user }))
    await client.realtime.setAuth(token('authenticated', 3600, { sub: randomUUID() }))
    const { status, message } = await system.next('the reason')
    const text = `You do not have permissions to read from this Channel topic: ${topic}`
    assert.deepEqual([status, message], ['error', text])
    await states.next('the end of the channel', ({ status }) => status === 'CLOSED')
  })

  it('presence in a private room', async (make) => {
    const clients = [await make(), await make()]
    const topic = room(...clients)
    const channels = clients.map((client, key) => client.channel(topic, { config: { private: true, presence: { key: String(key) } } }))
    const joins = channels.map((channel) => {
      const inbox = new Inbox()
      channel.on('presence', { event: 'join' }, inbox.push)
      return inbox
    })
    for (const channel of channels) await subscribe(channel)
    assert.equal(await channels[0].track({ name: 'Ann' }), 'ok')
    for (const inbox of joins) {
      const { key, newPresences } = await inbox.next('the join', ({ key }) => key === '0')
      assert.deepEqual([key, newPresences[0].name], ['0', 'Ann'])
    }
  })

  if (!library.binary) continue

  it('httpSend needs the permission to write', async (make) => {
    const [member, stranger] = [await make(), await make()]
    const topic = room(member)
    const channel = member.channel(topic, { config: PRIVATE })
    const inbox = broadcasts(channel)
    await subscribe(channel)
    const http = (client) => client.channel(topic, { config: { private: true } })
    await assert.rejects(http(stranger).httpSend('lost', { a: 1 }), /Unauthorized/)
    const sender = await make(member.user)
    assert.deepEqual(await http(sender).httpSend('heard', { a: 1 }), { success: true })
    const { event, payload } = await inbox.next('the message')
    assert.deepEqual([event, payload], ['heard', { a: 1 }])
  })

  it('realtime.send_binary arrives byte for byte', async (make) => {
    const client = await make()
    const topic = room(client)
    const channel = client.channel(topic, { config: { private: true, broadcast: { replication_ready: true } } })
    const inbox = broadcasts(channel, 'bytes')
    await subscribeStreamed(channel)
    postgres.sql(`select realtime.send_binary('\\x00ff10', 'bytes', '${topic}', true)`)
    const { payload } = await inbox.next('the bytes')
    assert.deepEqual(new Uint8Array(payload), Uint8Array.of(0, 255, 16))
  })
}
