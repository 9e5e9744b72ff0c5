// Postgres Changes through the Supabase libraries, against a real PostgreSQL: what a row's change looks like, which bindings are
// told, and who may see it.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, before, test } from 'node:test'

import { postgresChangesFilter } from '@supabase/realtime-js'

import { settled as settledIn, startWithTables, take, takeNames, watch } from './changes.js'
import { LIBRARIES } from './libraries.js'
import { Postgres } from './postgres.js'
import { Inbox, Server, broadcasts, token } from './support.js'

let postgres, server
before(async () => {
  postgres = await Postgres.start()
  server = await startWithTables(postgres)
})
after(async () => {
  await server?.dispose()
  await postgres?.stop()
})

const sql = (text) => postgres.sql(text)
const settled = (...watched) => settledIn(postgres, ...watched)
const anyTopic = () => `room ${randomUUID()}`

/** The id of a new row. */
const insert = (table, columns, values) => Number(sql(`insert into ${table} (${columns}) values (${values}) returning id`))

/** A time like those of commits, as milliseconds since 1970. */
function commitMs(text) {
  assert.match(text, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
  return Date.parse(text)
}

const CONNECT = 'Unable to subscribe to changes with given parameters.'
const FAILURE = `${CONNECT} An exception happened so please check your connect parameters:`

for (const library of LIBRARIES) {
  const it = (sentence, run) =>
    test(`${library.name}: ${sentence}`, async () => {
      const clients = []
      const make = async (role = 'authenticated', user = randomUUID()) => {
        const client = library.make(server, token('anon'))
        clients.push(client)
        await client.realtime.setAuth(token(role, 3600, { sub: user }))
        return { ...client, user }
      }
      try {
        await run(make)
      } finally {
        for (const client of clients) await client.realtime.disconnect()
      }
    })

  it('a row is inserted, updated and deleted', async (make) => {
    const watched = await watch(await make(), anyTopic(), { table: 'items' }).subscribe()
    const before = Date.now()
    const id = insert('public.items', 'name, amount', `'tea', 1.50`)
    sql(`update public.items set amount = 2, is_done = true where id = ${id}; delete from public.items where id = ${id}`)
    await settled(watched)
    const changes = take(watched.changes)
    for (const { commit_timestamp } of changes) {
      const ms = commitMs(commit_timestamp)
      assert.ok(before <= ms && ms <= Date.now(), `${commit_timestamp} is not now`)
    }
    const change = (index, eventType, now, old) => {
      const { commit_timestamp } = changes[index]
      return { schema: 'public', table: 'items', commit_timestamp, eventType, new: now, old, errors: null }
    }
    assert.deepEqual(changes, [
      change(0, 'INSERT', { id, name: 'tea', amount: 1.5, is_done: null }, {}),
      change(1, 'UPDATE', { id, name: 'tea', amount: 2, is_done: true }, { id }),
      change(2, 'DELETE', {}, { id }),
    ])
  })

  it('with replica identity full the old row is whole', async (make) => {
    const watched = watch(await make(), anyTopic(), { table: 'accounts' })
    const rich = watched.on({ table: 'accounts', filter: 'balance=gt.100' })
    await watched.subscribe()
    const id = insert('public.accounts', 'owner, balance', `'Ann', 200`)
    for (const balance of [50, 150]) sql(`update public.accounts set balance = ${balance} where id = ${id}`)
    sql(`delete from public.accounts where id = ${id}`)
    await settled(watched)
    const row = (balance) => ({ id, owner: 'Ann', balance })
    const pairs = (inbox) => take(inbox).map(({ new: now, old }) => [now, old])
    const all = [[row(200), {}], [row(50), row(200)], [row(150), row(50)], [{}, row(150)]]
    assert.deepEqual(pairs(watched.changes), all)
    // An update is judged by its new row, a deletion by the old one.
    assert.deepEqual(pairs(rich), [all[0], all[2], all[3]])
  })

  it('each value comes in its JSON form', async (make) => {
    const watched = await watch(await make(), anyTopic(), { table: 'samples' }).subscribe()
    const id = Number(sql(`insert into public.samples values (default, 9007199254740991, 1.50, 1e21, 'NaN', true,
      'q"uote ''é 😀', 'abc', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '\\x00ff10',
      '2024-02-29', '2024-02-29 12:34:56.120', '2024-02-29 12:34:56.1+02', '1 year 2 mons 3 days 04:05:06.7',
      '{"a": 1, "a": 2.50}', '[1, {"x": null}]', '{{1,2},{3,NULL}}', '{"a,b",NULL,""}',
      '(1,2.5)', '[1,4]', '192.168.0.1/24', 'happy', '(3,cm)', 7, null) returning id`))
    await settled(watched)
    const [{ new: row }] = take(watched.changes)
    assert.deepEqual(row, {
      id, int8: 9007199254740991, numeric: 1.5, float8: 1e21, nan: null, bool: true,
      text: 'q"uote \'é 😀', char: 'abc', uuid: 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', bytea: '00ff10',
      date: '2024-02-29', timestamp: '2024-02-29T12:34:56.12', timestamptz: '2024-02-29T10:34:56.1+00:00',
      interval: '1 year 2 mons 3 days 04:05:06.7',
      json: { a: 2.5 }, jsonb: [1, { x: null }], ints: [[1, 2], [3, null]], texts: ['a,b', null, ''],
      point: '(1,2.5)', range: '[1,5)', inet: '192.168.0.1/24', mood: 'happy', size: { width: 3, unit: 'cm' }, positive: 7,
      null: null,
    })
  })

  it('only events that were asked for', async (make) => {
    const watched = watch(await make(), anyTopic())
    const events = ['INSERT', 'UPDATE', 'DELETE', '*']
    const inboxes = events.map((event) => watched.on({ event, table: 'items' }))
    await watched.subscribe()
    const id = insert('public.items', 'name', `'tea'`)
    sql(`update public.items set name = 'mate' where id = ${id}; delete from public.items where id = ${id}`)
    await settled(watched)
    const heard = inboxes.map((inbox) => take(inbox).map(({ eventType }) => eventType))
    assert.deepEqual(heard, [['INSERT'], ['UPDATE'], ['DELETE'], events.slice(0, 3)])
  })

  it('a schema is all its published tables', async (make) => {
    const client = await make()
    const [ours, shop, all] = [{}, { schema: 'shop' }, { schema: '*' }].map((binding) => watch(client, anyTopic(), binding))
    for (const watched of [ours, shop, all]) await watched.subscribe()
    sql(`insert into public.items (name) values ('tea'); insert into shop."Odd table.x" ("a b") values ('c d');
      insert into public.unpublished select coalesce(max(id), 0) + 1 from public.unpublished; insert into public.accounts (owner) values ('Ann')`)
    await settled(ours, shop, all)
    const tables = ({ changes }) => take(changes).map(({ schema, table }) => `${schema}.${table}`)
    const [items, odd, accounts, end] = ['public.items', 'shop.Odd table.x', 'public.accounts', 'public.probes']
    assert.deepEqual(tables(ours), [items, accounts, end])
    assert.deepEqual(tables(shop), [odd])
    assert.deepEqual(tables(all), [items, odd, accounts, end])
  })

  it('names may be odd', async (make) => {
    const watched = watch(await make(), anyTopic(), { schema: 'shop', table: 'Odd table.x', filter: 'a b=eq.c d' })
    await watched.subscribe()
    sql(`insert into shop."Odd table.x" ("a b") values ('no'), ('c d')`)
    await settled(watched)
    const [{ schema, table, new: row }, ...more] = take(watched.changes)
    assert.deepEqual([schema, table, row['a b'], more], ['shop', 'Odd table.x', 'c d', []])
  })

  it('filters', async (make) => {
    const watched = watch(await make(), anyTopic())
    // Of the rows apple 1.50 done, Apricot 10, banana 10.50 and one without anything.
    const expected = {
      '': 'apple Apricot banana, ripe null',
      'name=eq.apple': 'apple',
      'name=eq."banana, ripe"': 'banana, ripe',
      'amount=eq.10.5': 'banana, ripe',
      'amount=neq.10': 'apple banana, ripe',
      'amount=lt.10': 'apple',
      'amount=lte.10': 'apple Apricot',
      'amount=gt.10': 'banana, ripe',
      'amount=gte.10': 'Apricot banana, ripe',
      'name=in.(apple,"banana, ripe")': 'apple banana, ripe',
      'name=like.ap%': 'apple',
      'name=ilike.ap%': 'apple Apricot',
      'name=match.^A': 'Apricot',
      'name=imatch.^a.*[te]$': 'apple Apricot',
      'amount=is.null': 'null',
      'is_done=is.true': 'apple',
      'name=isdistinct.apple': 'Apricot banana, ripe null',
      'name=not.eq.apple': 'Apricot banana, ripe',
      'name=not.in.(apple,pear)': 'Apricot banana, ripe',
      'amount=not.is.null': 'apple Apricot banana, ripe',
      'is_done=not.is.true': 'Apricot banana, ripe null',
      'name=not.like.ap%': 'Apricot banana, ripe',
      'amount=gte.10,is_done=is.false': 'Apricot',
      'amount=gt.1,amount=lt.10.4,name=ilike.a%': 'apple Apricot',
      'name=eq.Apple': '',
    }
    const inboxes = Object.keys(expected).map((filter) => watched.on({ table: 'items', filter }))
    await watched.subscribe()
    sql(`insert into public.items (name, amount, is_done) values
      ('apple', 1.5, true), ('Apricot', 10, false), ('banana, ripe', 10.50, null), (null, null, null)`)
    await settled(watched)
    const heard = inboxes.map((inbox) => take(inbox).map(({ new: { name } }) => String(name)).join(' '))
    assert.deepEqual(Object.fromEntries(Object.keys(expected).map((filter, index) => [filter, heard[index]])), expected)
  })

  it('a filter on another column than the key does not match a deletion', async (make) => {
    const id = insert('public.items', 'name', `'tea'`)
    const watched = watch(await make(), anyTopic())
    const filters = [undefined, `id=eq.${id}`, `id=in.(${id},${id + 1})`, 'name=eq.tea', 'name=not.eq.mate', 'amount=is.null']
    const inboxes = filters.map((filter) => watched.on({ event: 'DELETE', table: 'items', ...(filter && { filter }) }))
    await watched.subscribe()
    sql(`delete from public.items where id = ${id}`)
    await settled(watched)
    assert.deepEqual(inboxes.map((inbox) => take(inbox).length), [1, 1, 1, 0, 0, 0])
  })

  it('selected columns come with the key', async (make) => {
    const watched = watch(await make(), anyTopic(), { table: 'items', select: ['name'] })
    const whole = watched.on({ table: 'items', filter: 'amount=gt.0' })
    await watched.subscribe()
    const id = insert('public.items', 'name, amount', `'tea', 3`)
    await settled(watched)
    assert.deepEqual(take(watched.changes).map(({ new: row }) => row), [{ id, name: 'tea' }])
    assert.deepEqual(take(whole).map(({ new: row }) => row), [{ id, name: 'tea', amount: 3, is_done: null }])
  })

  it('transactions come whole and in the order of their commits', async (make) => {
    const watched = await watch(await make(), anyTopic(), { table: 'items' }).subscribe()
    sql(`begin; insert into public.items (name) select 'row ' || n from generate_series(1, 300) n;
      update public.items set name = 'last' where name = 'row 300'; savepoint s; insert into public.items (name) values ('taken back');
      rollback to s; insert into public.items (name) values ('row 301'); commit;
      begin; insert into public.items (name) values ('never'); rollback; truncate public.items; insert into public.items (name) values ('row 302')`)
    await settled(watched)
    const rows = Array.from({ length: 300 }, (_, n) => `INSERT row ${n + 1}`)
    assert.deepEqual(takeNames(watched.changes), [...rows, 'UPDATE last', 'INSERT row 301', 'INSERT row 302'])
  })

  it('row level security by auth.uid()', async (make) => {
    const [ann, bob, stranger, service] = [await make(), await make(), await make('anon'), await make('service_role')]
    const all = [ann, bob, stranger, service].map((client) => watch(client, anyTopic(), { table: 'letters' }))
    for (const watched of all) await watched.subscribe()
    const heard = () => all.map(({ changes }) => takeNames(changes))
    const toAnn = insert('public.letters', 'owner, text', `'${ann.user}', 'to Ann'`)
    const toBob = insert('public.letters', 'owner, text', `'${bob.user}', 'to Bob'`)
    await settled(...all)
    const [{ new: letter }] = all[0].changes.items
    assert.deepEqual(letter, { id: toAnn, owner: ann.user, text: 'to Ann' })
    assert.deepEqual(heard(), [['INSERT to Ann'], ['INSERT to Bob'], [], ['INSERT to Ann', 'INSERT to Bob']])
    sql(`update public.letters set owner = '${bob.user}', text = 'given' where id = ${toAnn}`)
    await settled(...all)
    assert.deepEqual(heard(), [[], ['UPDATE given'], [], ['UPDATE given']])
    // Nobody can be asked about a row that is gone: everybody is told its key, and no more.
    sql(`delete from public.letters where id in (${toAnn}, ${toBob})`)
    await settled(...all)
    for (const { changes } of all) {
      assert.deepEqual(take(changes).map(({ eventType, old }) => [eventType, old]), [['DELETE', { id: toAnn }], ['DELETE', { id: toBob }]])
    }
  })

  it('columns and keys that may not be read', async (make) => {
    const [member, stranger] = [await make(), await make('anon')]
    const all = [member, stranger].map((client) => watch(client, anyTopic(), { table: 'partly' }))
    const keyless = all[0].on({ table: 'keyless' })
    for (const watched of all) await watched.subscribe()
    const id = insert('public.partly', 'open, secret', `'a', 'b'`)
    sql(`insert into public.keyless values (1); delete from public.partly where id = ${id}`)
    await settled(...all)
    const short = (inbox) => take(inbox).map(({ eventType, new: now, old, errors }) => [eventType, now, old, errors])
    assert.deepEqual(short(all[0].changes), [['INSERT', { id, open: 'a' }, {}, null], ['DELETE', {}, { id }, null]])
    assert.deepEqual(short(all[1].changes), [['INSERT', {}, {}, ['Error 401: Unauthorized']], ['DELETE', {}, {}, null]])
    assert.deepEqual(short(keyless), [['INSERT', {}, {}, ['Error 400: Bad Request, no primary key']]])
  })

  it('of a row that is too large the small values come', async (make) => {
    const watched = await watch(await make(), anyTopic(), { table: 'items', filter: 'name=like.x%' }).subscribe()
    const id = insert('public.items', 'name, amount', `repeat('x', 1100000), 1.5`)
    await settled(watched)
    const [{ new: row, errors }] = take(watched.changes)
    assert.deepEqual([row, errors], [{ id, amount: 1.5 }, ['Error 413: Payload Too Large']])
  })

  it('broadcast, presence and changes share a channel', async (make) => {
    const clients = [await make(), await make()]
    const topic = anyTopic()
    const all = clients.map((client, key) =>
      watch(client, topic, { table: 'items' }, { broadcast: { self: true }, presence: { key: String(key) } }),
    )
    const [heard, joins] = [all.map(({ channel }) => broadcasts(channel, 'note')), all.map(() => new Inbox())]
    for (const [index, { channel }] of all.entries()) channel.on('presence', { event: 'join' }, joins[index].push)
    for (const watched of all) await watched.subscribe()
    assert.equal(await all[0].channel.track({ name: 'Ann' }), 'ok')
    await all[1].channel.send({ type: 'broadcast', event: 'note', payload: { n: 1 } })
    insert('public.items', 'name', `'tea'`)
    await settled(...all)
    for (const index of [0, 1]) {
      assert.deepEqual((await heard[index].next('the broadcast')).payload, { n: 1 })
      assert.equal((await joins[index].next('the presence', ({ key }) => key === '0')).newPresences[0].name, 'Ann')
      assert.deepEqual(takeNames(all[index].changes), ['INSERT tea'])
      assert.equal(heard[index].items.length, 0)
    }
  })

  it('a new token brings what its user may see', async (make) => {
    const [client, successor] = [await make(), randomUUID()]
    const watched = await watch(client, anyTopic(), { table: 'letters' }).subscribe()
    const write = () => sql(`insert into public.letters (owner, text) values ('${client.user}', 'first'), ('${successor}', 'second')`)
    write()
    await settled(watched)
    assert.deepEqual(takeNames(watched.changes), ['INSERT first'])
    await client.realtime.setAuth(token('authenticated', 3600, { sub: successor }))
    await watched.subscribed()
    write()
    await settled(watched)
    assert.deepEqual(takeNames(watched.changes), ['INSERT second'])
  })

  it('a channel that was left gets nothing', async (make) => {
    const client = await make()
    const [gone, stays] = [`gone ${randomUUID()}`, anyTopic()].map((topic) => watch(client, topic, { table: 'items' }))
    for (const watched of [gone, stays]) await watched.subscribe()
    // What the server sends, not what the library makes of it.
    const frames = []
    client.transport.sockets.at(-1).on('message', (data) => frames.push(String(data)))
    const changesOf = ({ channel }) => frames.filter((text) => text.includes('"postgres_changes"') && text.includes(channel.topic))
    insert('public.items', 'name', `'before'`)
    await settled(gone, stays)
    assert.equal(changesOf(gone).length, 2)
    assert.equal(await gone.channel.unsubscribe(), 'ok')
    insert('public.items', 'name', `'after'`)
    await settled(stays)
    assert.deepEqual(takeNames(stays.changes), ['INSERT before', 'INSERT after'])
    assert.deepEqual([changesOf(gone).length, changesOf(stays).length], [2, 4])
  })

  it('a connection that breaks is joined again with its changes', async (make) => {
    const client = await make()
    const watched = await watch(client, anyTopic(), { table: 'items' }).subscribe()
    client.transport.cut()
    await watched.states.next('the channel to join again', ({ status }) => status === 'SUBSCRIBED')
    await watched.subscribed()
    insert('public.items', 'name', `'tea'`)
    await settled(watched)
    assert.deepEqual(takeNames(watched.changes), ['INSERT tea'])
  })

  it('what cannot be subscribed to is said, and the channel stays', async (make) => {
    const client = await make()
    const params = (table, filters, select = 'nil') => `[event: *, schema: public, table: ${table}, filters: ${filters}, select: ${select}]`
    const cases = [
      [{ table: 'unpublished' }, `${CONNECT} Please check Realtime is enabled for the given connect parameters: ${params('unpublished', '[]')}`],
      [
        { table: 'items', filter: 'nope=eq.1' },
        `${FAILURE} ${params('items', '[{"nope", "eq", "1", false}]')}. Exception: ERROR P0001 (raise_exception) invalid column for filter nope`,
      ],
      [
        { table: 'items', filter: 'amount=gt.much' },
        `${FAILURE} ${params('items', '[{"amount", "gt", "much", false}]')}. Exception: ERROR 22P02 (invalid_text_representation) invalid input syntax for type numeric: "much"`,
      ],
      [
        { table: 'partly', filter: 'secret=eq.b' },
        `${FAILURE} ${params('partly', '[{"secret", "eq", "b", false}]')}. Exception: ERROR P0001 (raise_exception) invalid column for filter secret`,
      ],
      [{ table: 'items', filter: 'name' }, 'Error parsing `filter` params: ["name"]'],
      [{ table: 'items', filter: 'name=foo.5' }, 'Error parsing `filter` params: ["foo", "5"]'],
      [{ table: 'items', filter: 'name=in.5' }, 'Error parsing `filter` params: `in` filter value must be wrapped by parentheses'],
    ]
    for (const [binding, text] of cases) {
      const watched = watch(client, anyTopic(), binding, { broadcast: { self: true } })
      const heard = broadcasts(watched.channel, 'note')
      watched.channel.subscribe()
      const { status, message, channel } = await watched.told()
      assert.deepEqual([status, message, `realtime:${channel}`], ['error', text, watched.channel.topic])
      await watched.channel.send({ type: 'broadcast', event: 'note', payload: { n: 1 } })
      assert.deepEqual((await heard.next('the broadcast')).payload, { n: 1 })
    }
  })

  it('one bad entry fails all of its channel, and no other', async (make) => {
    const client = await make()
    const [bad, good] = [watch(client, anyTopic(), { table: 'items' }), watch(client, anyTopic(), { table: 'items' })]
    bad.on({ table: 'unpublished' })
    bad.channel.subscribe()
    assert.equal((await bad.told()).status, 'error')
    await good.subscribe()
    insert('public.items', 'name', `'tea'`)
    await settled(good)
    assert.deepEqual(takeNames(good.changes), ['INSERT tea'])
    assert.deepEqual([bad.changes.items.length, bad.ends.items.length, bad.system.items.length], [0, 0, 0])
  })

  it('a private channel has changes as well', async (make) => {
    const client = await make()
    const watched = await watch(client, `user:${client.user}`, { table: 'items' }, { private: true }).subscribe()
    insert('public.items', 'name', `'tea'`)
    await settled(watched)
    assert.deepEqual(takeNames(watched.changes), ['INSERT tea'])
  })
}

test('supabase-js: a filter made by its builder', async () => {
  const client = LIBRARIES[0].make(server)
  const filters = {
    'a, "b"': postgresChangesFilter().eq('name', 'a, "b"'),
    'back\\slash c': postgresChangesFilter().in('name', ['back\\slash', 'c']).is('amount', null),
    'a, "b" c': postgresChangesFilter().not('name', 'like', '%slash'),
  }
  const watched = watch(client, anyTopic())
  const inboxes = Object.values(filters).map((filter) => watched.on({ table: 'items', filter }))
  await watched.subscribe()
  sql(`insert into public.items (name) values ('a, "b"'), ('back\\slash'), ('c')`)
  await settled(watched)
  assert.deepEqual(inboxes.map((inbox) => take(inbox).map(({ new: { name } }) => name).join(' ')), Object.keys(filters))
  await client.realtime.disconnect()
})
