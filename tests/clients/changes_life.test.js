// Postgres Changes around the single channel: a server that restarts, tenants beside each other, and the old form of a join, in
// which the topic says what is asked for.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, before, test } from 'node:test'

import { makeTables, settled, startWithTables, take, takeNames, watch } from './changes.js'
import { LIBRARIES } from './libraries.js'
import { VERSIONS, answer, connectTo } from './phoenix.js'
import { Postgres } from './postgres.js'
import { Inbox, Server, token } from './support.js'

let postgres, server
before(async () => {
  postgres = await Postgres.start()
  server = await startWithTables(postgres)
})
after(async () => {
  await server?.dispose()
  await postgres?.stop()
})

const insert = (name, database) => postgres.sql(`insert into public.items (name) values ('${name}')`, database)
const SLOTS = `select count(*) from pg_replication_slots where slot_name like 'supabase_realtime_replication_slot%'`

test('every library has its changes again after a restart', async () => {
  const members = []
  for (const library of LIBRARIES) {
    const client = library.make(server)
    members.push({ library, client, watched: await watch(client, 'restart', { table: 'items' }).subscribe() })
  }
  const all = members.map(({ watched }) => watched)
  insert('before')
  await settled(postgres, ...all)
  assert.equal(postgres.sql(SLOTS), '1')

  await server.stop()
  assert.equal(postgres.sql(SLOTS), '0')
  insert('meanwhile')
  await server.run()

  for (const { library, watched } of members) {
    await watched.states.next(`${library.name} to join again`, ({ status }) => status === 'SUBSCRIBED', 45_000)
    await watched.subscribed()
  }
  insert('after')
  await settled(postgres, ...all)
  for (const { library, watched } of members) {
    assert.deepEqual(takeNames(watched.changes), ['INSERT before', 'INSERT after'], library.name)
  }
  for (const { client } of members) await client.realtime.disconnect()
})

test('tenants of one database server are apart, and so are those of one database', async () => {
  await postgres.project('two')
  makeTables(postgres, 'two')
  const several = await Server.startOf(postgres, { first: 'app', second: 'two', third: 'two' })
  try {
    const clients = ['first', 'second', 'third'].map((tenant) => LIBRARIES[0].make(several.of(tenant)))
    const all = clients.map((client) => watch(client, 'same', { table: 'items' }))
    for (const watched of all) await watched.subscribe()
    insert('one')
    insert('two', 'two')
    const [first, second, third] = all
    await settled(postgres, first)
    await settled({ sql: (text) => postgres.sql(text, 'two') }, second, third)
    assert.deepEqual(all.map(({ changes }) => takeNames(changes)), [['INSERT one'], ['INSERT two'], ['INSERT two']])
    // The one that ends leaves the other one's slot alone.
    await clients[1].realtime.disconnect()
    insert('three', 'two')
    await settled({ sql: (text) => postgres.sql(text, 'two') }, third)
    assert.deepEqual(takeNames(third.changes), ['INSERT three'])
    for (const client of clients) await client.realtime.disconnect()
  } finally {
    await several.dispose()
  }
})

test('members of one topic have claims and serializers of their own', async () => {
  const users = LIBRARIES.map(() => randomUUID())
  const all = []
  for (const [index, library] of LIBRARIES.entries()) {
    const client = library.make(server)
    await client.realtime.setAuth(token('authenticated', 3600, { sub: users[index] }))
    all.push({ client, watched: await watch(client, 'shared', { table: 'letters' }).subscribe() })
  }
  const rows = users.map((user, index) => `('${user}', 'to ${index}')`)
  postgres.sql(`insert into public.letters (owner, text) values ${rows}`)
  await settled(postgres, ...all.map(({ watched }) => watched))
  const heard = all.map(({ watched }) => takeNames(watched.changes))
  assert.deepEqual(heard, users.map((_, index) => [`INSERT to ${index}`]))
  for (const { client } of all) await client.realtime.disconnect()
})

for (const version of Object.keys(VERSIONS)) {
  test(`phoenix ${version}: a topic without config says what is asked for`, async () => {
    const { socket } = connectTo(server, version)
    const join = async (topic) => {
      const channel = socket.channel(`realtime:${topic}`, {})
      const [inbox, system] = [new Inbox(), new Inbox()]
      for (const event of ['INSERT', 'UPDATE', 'DELETE', 'postgres_changes']) channel.on(event, (payload) => inbox.push({ event, payload }))
      channel.on('system', system.push)
      const { status, response } = await answer(channel.join())
      assert.equal(status, 'ok')
      const [{ id, ...entry }, ...more] = response.postgres_changes
      assert.deepEqual([Number.isInteger(id), more], [true, []])
      return { channel, entry, inbox, told: await system.next('word of the subscription') }
    }
    const [table, filtered] = [await join('public:items'), await join('public:items:name=eq.tea')]
    const [all, room] = [await join('*'), await join('room1')]
    assert.deepEqual(table.entry, { schema: 'public', table: 'items' })
    assert.deepEqual(filtered.entry, { schema: 'public', table: 'items', filter: 'name=eq.tea' })
    assert.deepEqual([all.entry, room.entry], [{ schema: '*' }, { schema: 'room1' }])
    for (const { told } of [table, filtered, all]) assert.deepEqual([told.status, told.message], ['ok', 'Subscribed to PostgreSQL'])
    assert.equal(room.told.status, 'error')

    const ids = postgres.sql(`insert into public.items (name, amount) values ('tea', 1.50), ('mate', null) returning id`)
    const [tea, mate] = ids.split('\n').map(Number)
    postgres.sql(`update public.items set amount = 2 where id = ${tea}; delete from public.items where id in (${tea}, ${mate})`)
    // The end: every one of these channels is told of this row.
    postgres.sql(`insert into public.items (name) values ('tea')`)
    const short = async ({ inbox }) => {
      await inbox.next('the end', ({ payload: { record } }) => record?.name === 'tea' && record.id !== tea)
      return take(inbox).map(({ event, payload: { record, old_record } }) => [event, (record ?? old_record).id])
    }
    const first = table.inbox.next('the insertion', ({ payload: { record } }) => record?.id === tea)
    const { event, payload } = await first
    const { commit_timestamp, ...data } = payload
    assert.match(commit_timestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
    assert.equal(event, 'INSERT')
    assert.deepEqual(data, {
      schema: 'public', table: 'items', type: 'INSERT', errors: null,
      columns: [['id', 'int8'], ['name', 'text'], ['amount', 'numeric'], ['is_done', 'bool']].map(([name, type]) => ({ name, type })),
      record: { id: tea, name: 'tea', amount: 1.5, is_done: null },
    })
    const rest = [['INSERT', mate], ['UPDATE', tea], ['DELETE', tea], ['DELETE', mate]]
    assert.deepEqual(await short(table), rest)
    assert.deepEqual(await short(all), [['INSERT', tea], ...rest])
    assert.deepEqual(await short(filtered), [['INSERT', tea], ['UPDATE', tea]])
    assert.equal(room.inbox.items.length, 0)
    socket.disconnect()
  })
}
