// The front page, the status page, the operators' dashboard and errors.

import assert from 'node:assert/strict'
import { after, before } from 'node:test'

import { Pane, Server, inspector, scene, see, until, useBrowser } from './support.js'

const DASHBOARD = { DASHBOARD_USER: 'operator', DASHBOARD_PASSWORD: 'of this test' }
const OPERATOR = { httpCredentials: { username: DASHBOARD.DASHBOARD_USER, password: DASHBOARD.DASHBOARD_PASSWORD } }

let server
useBrowser()
before(async () => (server = await Server.start({ API_JWT_SECRET: undefined, ...DASHBOARD })))
after(() => server?.dispose())

const figures = async () => (await fetch(`${server.http}/status/figures`)).json()

scene('the front page says what this is, and its links lead somewhere', async (scene) => {
  const page = await scene.open(server.http)
  await see(page.locator('main'), (await figures()).version)
  const links = await page.locator('a[href]').evaluateAll((links) => links.map(({ href }) => href))
  const own = new Set(links.filter((link) => link.startsWith(server.http)).map((link) => link.split('#')[0]))
  for (const path of ['/inspector/new', '/demo/cursors', '/status', '/swaggerui']) assert.ok(own.has(server.http + path), path)
  for (const link of own) {
    const answer = await fetch(link)
    assert.equal(answer.status, 200, link)
    if (!answer.headers.get('content-type').startsWith('text/html')) continue
    // From each page there is a way back.
    await page.goto(link)
    assert.equal(await page.locator('.bar a.brand[href="/"]').count(), 1, link)
  }
})

scene('what is not there is said in words, to a browser in the style of the pages', async (scene) => {
  scene.expect(/answered 404/, /Failed to load resource.*404/)
  const page = await scene.open(`${server.http}/inspector/nothing-here`)
  await see(page.locator('h1'), 'Not Found')
  await page.locator('main a[href="/"]').click()
  await see(page.locator('h1'), 'A Realtime server')
  const answer = await fetch(`${server.http}/inspector/nothing-here`)
  assert.deepEqual([answer.status, await answer.text()], [404, 'Not Found'])
})

scene('the status page shows what the server does, while it does it', async (scene) => {
  const page = await scene.open(`${server.http}/status`)
  assert.equal(await page.title(), 'Realtime Status')
  const { version, driver, shards } = await figures()
  await see(page.locator('main'), version)
  await see(page.locator('main'), driver)
  await see(page.locator('#state'), 'Live')
  await until(page, 'a row for each shard', (count) => document.querySelectorAll('#shards tbody tr').length === count, shards.length)
  await see(page.locator('#shards tbody tr').first().locator('[data-figure="p99"]'), /\d (µs|ms|s)/)
  await connections(page, 0)
  const pane = new Pane(await scene.open(inspector(server)))
  await pane.connect()
  await connections(page, 1)
  await pane.page.close()
  await connections(page, 0)
})

/** Waits until the status page says so many connections, in all: its tile comes before those of the shards. */
const connections = (page, count) => until(page, `${count} connections`, (count) => document.querySelector('[data-figure="connections"]')?.textContent.trim() === String(count), count)

scene('nothing of tenants is shown without credentials', async (scene) => {
  const page = await scene.open(`${server.http}/status`)
  await connections(page, 0)
  assert.doesNotMatch(await page.content(), /realtime-dev/)
  assert.equal(await page.locator('#tenants-card').isVisible(), false)
  assert.doesNotMatch(JSON.stringify(await figures()), /realtime-dev|secret|password/i)
  for (const path of ['/admin/figures', '/admin/dashboard']) {
    const answer = await fetch(server.http + path)
    assert.deepEqual([answer.status, await answer.text()], [401, 'Unauthorized'])
  }
})

scene('whoever has the credentials of the dashboard sees the tenants', async (scene) => {
  const page = await scene.open(`${server.http}/admin/dashboard`, OPERATOR)
  const row = page.locator('#tenants tbody tr[data-tenant="realtime-dev"]')
  await see(row.locator('[data-figure="database"]'), 'not configured')
  await see(row.locator('[data-figure="users"]'), /^0 of/)
  const pane = new Pane(await scene.open(inspector(server)))
  await pane.connect()
  await see(row.locator('[data-figure="users"]'), /^1 of/)
  await page.locator('#tenants-filter').fill('nobody is called so')
  await until(page, 'no row', () => document.querySelectorAll('#tenants tbody tr').length === 0)
  const { username, password } = OPERATOR.httpCredentials
  const answer = await fetch(`${server.http}/admin/figures`, { headers: { authorization: `Basic ${btoa(`${username}:${password}`)}` } })
  assert.equal(answer.status, 200)
  assert.doesNotMatch(await answer.text(), /secret|password|db_host/i)
})

scene('a server that does not answer is said to be silent, and the page recovers', async (scene) => {
  const other = await Server.start({ API_JWT_SECRET: undefined })
  try {
    scene.expect(/ERR_(CONNECTION_(REFUSED|RESET)|EMPTY_RESPONSE)/)
    const page = await scene.open(`${other.http}/status`)
    await connections(page, 0)
    await other.stop()
    await see(page.locator('#state'), 'Stale')
    await see(page.locator('#stale'), /has not answered for \d+ s/)
    await other.run()
    await see(page.locator('#state'), 'Live')
    assert.equal(await page.locator('#stale').isVisible(), false)
  } finally {
    await other.dispose()
  }
})

scene('a page that breaks the policy would be noticed', async (scene) => {
  scene.expect(/the policy forbids: script-src/, /Content Security Policy/, /the policy forbids: style-src/, /the policy forbids: img-src/, /request failed.*csp/)
  const page = await scene.open(server.http)
  const ran = await page.evaluate(async () => {
    const script = document.createElement('script')
    script.textContent = 'globalThis.ran = true'
    document.body.append(script)
    document.body.setAttribute('style', 'color: red')
    const image = new Image()
    const failed = new Promise((resolve) => (image.onerror = resolve))
    image.src = 'http://elsewhere.localhost/x.png'
    await failed
    return 'ran' in globalThis
  })
  assert.equal(ran, false)
})
