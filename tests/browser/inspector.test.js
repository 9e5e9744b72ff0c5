// The inspector on a server as it comes: one click connects, two people exchange, everything can be seen, a link reproduces it.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { after, before } from 'node:test'

import { Pane, Server, anyRoom, copied, inspector, scene, see, until, useBrowser } from './support.js'

let server
useBrowser()
// Without API_JWT_SECRET the tenant has the well-known secret, and the page a token.
before(async () => (server = await Server.start({ API_JWT_SECRET: undefined })))
after(() => server?.dispose())

/** A window with the inspector, joined. */
async function joined(scene, settings) {
  const pane = new Pane(await scene.open(inspector(server, settings)))
  await pane.connect()
  return pane
}

for (const path of ['/inspector', '/inspector/new']) {
  scene(`${path}: the first click connects and joins`, async (scene) => {
    const page = await scene.open(server.http + path)
    assert.equal(await page.title(), 'Inspector - Supabase Realtime')
    const pane = new Pane(page)
    await see(pane.the('state'), 'Disconnected')
    await pane.connect()
    await see(pane.the('heartbeat'), /\d ?ms/)
    await see(pane.frames('out', 'join'), 'phx_join')
    await see(pane.frames('in', 'reply'), 'reply to')
    await pane.send('hello', { to: 'everybody' })
    await see(pane.frames('out', 'broadcast'), 'hello')
    await pane.click('leave')
    await see(pane.the('channel-state'), 'Closed')
    await pane.click('join')
    await pane.joined()
    await pane.click('disconnect')
    await see(pane.the('state'), 'Disconnected')
  })
}

scene('a keyboard is enough: Tab reaches the button, Enter connects', async (scene) => {
  const page = await scene.open(inspector(server))
  const pane = new Pane(page)
  await see(pane.the('connect'), /./)
  const focused = () => page.evaluate(() => {
    const { dataset, tagName, id } = document.activeElement
    const { width, height } = document.activeElement.getBoundingClientRect()
    return { role: dataset.role, what: `${tagName}#${id}[${dataset.role}]`, isSeen: width > 1 && height > 1 }
  })
  for (let presses = 0; (await focused()).role !== 'connect'; presses += 1) {
    assert.ok(presses < 60, 'Tab does not reach the button')
    await page.keyboard.press('Tab')
    const { what, isSeen } = await focused()
    assert.ok(isSeen, `the focus is on something that is not seen: ${what}`)
  }
  await page.keyboard.press('Enter')
  await pane.joined()
})

scene('Enter in a field connects as well', async (scene) => {
  const pane = new Pane(await scene.open(inspector(server)))
  await pane.the('channel').press('Enter')
  await pane.joined()
})

scene('two windows hear each other and see who is present', async (scene) => {
  const channel = anyRoom()
  const [a, b] = [await joined(scene, { channel, enable_presence: 'true' }), await joined(scene, { channel, enable_presence: 'true' })]
  await a.send('greeting', { text: 'from a, ä 😀' })
  await see(b.frames('in', 'broadcast'), 'from a, ä 😀')
  await b.send('answer', { text: 'from b' })
  await see(a.frames('in', 'broadcast'), 'from b')

  await a.put('track-payload', '{"name": "Ann"}')
  await a.click('track')
  for (const { the } of [a, b].map((pane) => ({ the: pane.the('presence-list') }))) await see(the.locator('li'), 'Ann')
  await a.put('track-payload', '{"name": "Anna Maria"}')
  await a.click('track')
  await see(b.the('presence-list').locator('li'), 'Anna Maria')
  await b.put('track-payload', '{"name": "Bob"}')
  await b.click('track')
  await see(a.the('presence-list').locator('li'), 'Bob')
  await a.click('untrack')
  await until(b.page, 'Ann to be gone', () => ![...document.querySelectorAll('[data-pane="a"] [data-role="presence-list"] li')].some((li) => li.textContent.includes('Ann')))
  // A window that is closed is not there any more.
  await b.page.close()
  await until(a.page, 'Bob to be gone', () => ![...document.querySelectorAll('[data-pane="a"] [data-role="presence-list"] li')].some((li) => li.textContent.includes('Bob')))
})

scene('a second pane is another client, and sees the first', async (scene) => {
  const page = await scene.open(inspector(server))
  const [a, b] = [new Pane(page, 'a'), new Pane(page, 'b')]
  await see(a.the('connect'), /./)
  assert.equal(await b.root.filter({ visible: true }).count(), 0)
  await page.locator('#open-second').click()
  await a.connect()
  await b.connect()
  assert.equal((await b.values('channel')).channel, (await a.values('channel')).channel)
  await a.send('greeting', { from: 'pane a' })
  await see(b.frames('in', 'broadcast'), 'pane a')
  await b.send('answer', { from: 'pane b' })
  await see(a.frames('in', 'broadcast'), 'pane b')
  await page.locator('#close-second').click()
  await until(page, 'the second pane to be gone', () => !document.querySelector('[data-pane="b"]')?.checkVisibility())
})

const SETTINGS = {
  host: 'http://elsewhere.localhost:4999',
  token: 'abc.def.ghi',
  channel: 'a room/ä&=?',
  schema: 'shop',
  table: 'orders',
  event: 'UPDATE',
  filter: 'id=in.(1,2)',
  select: 'id,name',
  log_level: 'info',
  enable_presence: 'true',
  enable_db_changes: 'true',
  private_channel: 'true',
  self: 'false',
  ack: 'true',
}
const FLAGS = { true: true, false: false }
/** The role of each parameter's field, and what it holds. */
const FIELDS = Object.fromEntries(
  Object.entries(SETTINGS).map(([name, value]) => [{ self: 'broadcast_self', ack: 'broadcast_ack' }[name] ?? name, FLAGS[value] ?? value]),
)

scene('a link reproduces every setting', async (scene) => {
  const first = new Pane(await scene.open(inspector(server, { ...SETTINGS, second: '1' })))
  await see(new Pane(first.page, 'b').the('connect'), /./)
  assert.deepEqual(await first.values(...Object.keys(FIELDS)), FIELDS)
  // What the page makes of the address leads to the same; it writes one when something is changed.
  for (const channel of ['another', SETTINGS.channel]) {
    await first.put('channel', channel)
    await until(first.page, `${channel} in the address`, (channel) => new URLSearchParams(location.search).get('channel') === channel, channel)
  }
  const again = new Pane(await scene.open(await first.page.evaluate(() => location.href)))
  await see(new Pane(again.page, 'b').the('connect'), /./)
  assert.deepEqual(await again.values(...Object.keys(FIELDS)), FIELDS)
})

scene('a second client that a link sends to another server has no token of the first', async (scene) => {
  const page = await scene.open(inspector(server, { second: '1', b_host: 'http://elsewhere.localhost:4999' }))
  const [a, b] = [new Pane(page, 'a'), new Pane(page, 'b')]
  await see(b.the('connect'), /./)
  assert.notEqual((await a.values('token')).token, '')
  await a.put('token', 'token.of.mine')
  await a.put('bearer', 'bearer.of.mine')
  await a.put('schema', 'followed')
  assert.deepEqual(await b.values('token', 'bearer', 'schema'), { token: '', bearer: '', schema: 'followed' })
})

scene('the focus stays where one was when its button goes', async (scene) => {
  const pane = await joined(scene)
  const focused = (role) => until(pane.page, `the focus on ${role}`, (role) => document.activeElement.dataset.role === role, role)
  await pane.click('leave')
  await focused('join')
  await pane.click('join')
  await focused('leave')
  await pane.click('disconnect')
  await focused('connect')
})

scene('what is typed stands in the address, and the share button copies it', async (scene) => {
  const page = await scene.open(inspector(server))
  const pane = new Pane(page)
  await see(pane.the('connect'), /./)
  for (const [role, value] of Object.entries(FIELDS)) {
    if (role === 'token') continue
    if (typeof value === 'boolean') await pane.tick(role, value)
    else await pane.put(role, value)
  }
  const { token: _, ...told } = SETTINGS
  await until(page, 'the address', (told) => Object.entries(told).every(([name, value]) => new URLSearchParams(location.search).get(name) === value), told)
  await page.context().grantPermissions(['clipboard-read', 'clipboard-write'])
  await page.locator('#share').click()
  assert.equal(await copied(page, 'http'), page.url())
  const { token: __, ...fields } = FIELDS
  const again = new Pane(await scene.open(page.url()))
  await see(again.the('connect'), /./)
  assert.deepEqual(await again.values(...Object.keys(fields)), fields)
})

scene('secrets stay out of the address, are remembered, and are forgotten', async (scene) => {
  const page = await scene.open(inspector(server))
  const pane = new Pane(page)
  await see(pane.the('connect'), /./)
  await pane.put('bearer', 'bearer.of.mine')
  await pane.put('token', 'token.of.mine')
  await pane.put('channel', 'typed-last')
  await until(page, 'the address', () => location.search.includes('typed-last'))
  assert.doesNotMatch(page.url(), /of\.mine/)
  await page.locator('#share-token').check()
  await until(page, 'the token in the address', () => location.search.includes('token.of.mine'))
  assert.doesNotMatch(page.url(), /bearer/)
  await page.locator('#share-token').uncheck()
  await until(page, 'the token to leave the address', () => !location.search.includes('of.mine'))

  await page.reload()
  await see(pane.the('connect'), /./)
  assert.deepEqual(await pane.values('bearer', 'token'), { bearer: 'bearer.of.mine', token: 'token.of.mine' })
  await page.locator('#forget').click()
  assert.equal((await pane.values('bearer')).bearer, '')
  await page.reload()
  await see(pane.the('connect'), /./)
  const { bearer, token } = await pane.values('bearer', 'token')
  assert.deepEqual([bearer, token.includes('of.mine')], ['', false])
  assert.doesNotMatch(await page.evaluate(() => JSON.stringify({ ...localStorage })), /of\.mine/)
})

scene('acknowledgements are asked for, and the own broadcasts are measured', async (scene) => {
  const pane = await joined(scene, { ack: 'true', self: 'true' })
  const payload = { numbered: 1 }
  for (let n = 1; n <= 5; n += 1) {
    await pane.send('own', { ...payload, numbered: n })
    await see(pane.frames('in', 'broadcast'), new RegExp(`numbered.{0,4}${n}`))
  }
  // One reply for the join, and one for each of them.
  await until(pane.page, 'the replies', () => document.querySelectorAll('[data-pane="a"] [data-role="log"] .frame[data-direction="in"][data-kind="reply"]').length >= 6)
  await see(pane.the('plot-text'), /p50\D*\d.*p95\D*\d/s)
})

scene('a payload that is no JSON is refused in words, and nothing is sent', async (scene) => {
  const pane = await joined(scene)
  for (const payload of ['{"some": ', '{some: 1}', '']) {
    await pane.send('bad', payload)
    await see(pane.the('send-error'), /JSON/)
    assert.equal(await pane.the('send-payload').getAttribute('aria-invalid'), 'true')
  }
  await pane.send('good', '{"some": 1}')
  await see(pane.frames('out', 'broadcast'), 'good')
  assert.equal(await pane.frames('out', 'broadcast').count(), 1)
  await until(pane.page, 'the error to be gone', () => !document.querySelector('[data-pane="a"] [data-role="send-error"]').textContent.trim())
})

scene('the log is filtered, searched, paused, cleared, copied and downloaded', async (scene) => {
  const pane = await joined(scene, { self: 'true' })
  const { page } = pane
  await pane.send('needle', { n: 1 })
  await see(pane.frames('in', 'broadcast'), 'needle')
  await pane.send('hay', { n: 2 })
  await see(pane.frames('in', 'broadcast'), 'hay')
  const shown = (kind) => pane.frames(null, kind).filter({ visible: true }).count()

  const kinds = pane.the('log-filter')
  const broadcasts = kinds.getByLabel(/broadcast/i)
  await broadcasts.uncheck()
  await until(page, 'no broadcasts', () => ![...document.querySelectorAll('[data-pane="a"] .frame[data-kind="broadcast"]')].some((frame) => frame.checkVisibility()))
  assert.ok((await shown('join')) > 0)
  await broadcasts.check()
  await see(pane.frames('in', 'broadcast'), 'hay')

  await pane.put('log-search', 'needle')
  await until(page, 'only what was searched', () => {
    const seen = [...document.querySelectorAll('[data-pane="a"] [data-role="log"] .frame')].filter((frame) => frame.checkVisibility())
    return seen.length > 0 && seen.every((frame) => frame.textContent.includes('needle'))
  })
  await pane.put('log-search', '')
  await see(pane.frames('in', 'broadcast'), 'hay')

  await pane.click('pause')
  await pane.send('while-paused', { n: 3 })
  // Another window hears it: it has been there.
  await pane.click('pause')
  await see(pane.frames('in', 'broadcast'), 'while-paused')

  await page.context().grantPermissions(['clipboard-read', 'clipboard-write'])
  await pane.click('copy')
  const lines = (await copied(page, 'while-paused')).trim().split('\n').map((line) => JSON.parse(line))
  assert.ok(lines.length >= 8, `${lines.length} lines`)

  const [download] = await Promise.all([page.waitForEvent('download'), pane.click('download')])
  assert.match(download.suggestedFilename(), /\.(nd)?jsonl?$/)
  const saved = (await readFile(await download.path(), 'utf8')).trim().split('\n').map((line) => JSON.parse(line))
  assert.deepEqual(saved.slice(0, lines.length), lines)

  await pane.click('clear')
  await until(page, 'an empty log', () => document.querySelectorAll('[data-pane="a"] [data-role="log"] .frame').length === 0)
})

scene('a log that is paused stands still, and goes on with what it missed', async (scene) => {
  const channel = anyRoom()
  const [a, b] = [await joined(scene, { channel }), await joined(scene, { channel, self: 'true' })]
  await a.click('pause')
  await b.send('missed', { n: 1 })
  await see(b.frames('in', 'broadcast'), 'missed')
  // It has come to the first as well before the answer to what it sends now.
  await a.send('later', { n: 2 })
  await see(b.frames('in', 'broadcast'), 'later')
  assert.equal(await a.frames('in', 'broadcast').count(), 0)
  await a.click('pause')
  await see(a.frames('in', 'broadcast'), 'missed')
})

scene('after a restart of the server the page joins again by itself', async (scene) => {
  const other = await Server.start({ API_JWT_SECRET: undefined })
  try {
    scene.expect(/WebSocket connection to .* failed/)
    const pane = new Pane(await scene.open(inspector(other, { enable_presence: 'true' })))
    await pane.connect()
    await other.stop()
    await see(pane.the('state'), /Reconnecting/)
    // Nobody listens: at least one attempt fails.
    await see(pane.frames(null, 'transport'), /1006/)
    await other.run()
    await pane.joined()
    await pane.send('again', { back: true })
    await see(pane.frames('out', 'broadcast'), 'again')
  } finally {
    await other.dispose()
  }
})
