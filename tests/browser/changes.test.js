// The inspector with a real PostgreSQL: changes of rows, filters, selected columns, private channels, messages of the database.

import assert from 'node:assert/strict'
import { after, before } from 'node:test'

import { startWithTables } from '../clients/changes.js'
import { Postgres } from '../clients/postgres.js'
import { Pane, inspector, scene, see, token, useBrowser } from './support.js'

let postgres
let server
useBrowser()
before(async () => {
  postgres = await Postgres.start()
  server = await startWithTables(postgres)
})
after(async () => {
  await server?.dispose()
  await postgres?.stop()
})

/** A window that follows the changes of a table; what is committed from now on comes to it. */
async function following(scene, settings) {
  const page = await scene.open(inspector(server, { host: server.http, token: token('authenticated'), enable_db_changes: 'true', ...settings }))
  const pane = new Pane(page)
  await pane.connect()
  await see(pane.frames('in', 'system'), 'Subscribed to PostgreSQL')
  return pane
}

const rows = (pane) => pane.the('changes').locator('tbody tr')

scene('changes of rows appear, newest first', async (scene) => {
  const pane = await following(scene, { table: 'items' })
  postgres.sql("insert into public.items (name, amount) values ('a first row', 1.5)")
  await see(rows(pane), 'a first row')
  await see(rows(pane), /INSERT/)
  postgres.sql("update public.items set name = 'renamed' where name = 'a first row'")
  await see(rows(pane).first(), 'renamed')
  await see(rows(pane).first(), /UPDATE/)
  postgres.sql("delete from public.items where name = 'renamed'")
  await see(rows(pane).first(), /DELETE/)
  assert.equal(await rows(pane).count(), 3)
  await see(pane.frames('in', 'postgres'), 'renamed')
})

scene('a filter, an event and selected columns hold', async (scene) => {
  const pane = await following(scene, { table: 'items', event: 'INSERT', filter: 'name=in.(wanted,"wanted, too")', select: 'id,name' })
  postgres.sql(`insert into public.items (name, amount) values ('not this', 1), ('wanted', 77.25);
    update public.items set amount = 78 where name = 'wanted';
    insert into public.items (name, amount) values ('wanted, too', 79)`)
  await see(rows(pane).first(), 'wanted, too')
  assert.equal(await rows(pane).count(), 2)
  assert.doesNotMatch((await rows(pane).allInnerTexts()).join(), /not this|77\.25|amount/)
})

scene('a filter that cannot hold is explained', async (scene) => {
  const page = await scene.open(inspector(server, { host: server.http, token: token(), enable_db_changes: 'true', table: 'items', filter: 'nothing=eq.1' }))
  const pane = new Pane(page)
  await pane.click('connect')
  await see(pane.the('errors').locator('.explained'), /invalid column for filter nothing/)
})

scene('a private channel: who may not read is told so, who may hears the database', async (scene) => {
  const user = '00000000-0000-4000-8000-000000000001'
  const channel = `user:${user}`
  const settings = { host: server.http, channel, private_channel: 'true' }
  const stranger = new Pane(await scene.open(inspector(server, { ...settings, token: token('anon') })))
  await stranger.click('connect')
  await see(stranger.the('errors').locator('.explained[data-code="Unauthorized"]'), /permission/)
  assert.doesNotMatch(await stranger.the('channel-state').innerText(), /Joined/)

  // The bearer says who it is.
  const pane = new Pane(await scene.open(inspector(server, { ...settings, token: token('anon') })))
  await pane.put('bearer', token('authenticated', 3600, { sub: user }))
  await pane.connect()
  postgres.sql(`select realtime.send('{"text": "from the database"}', 'note', '${channel}', true)`)
  await see(pane.frames('in', 'broadcast'), 'from the database')
})
