// What the server refuses is explained in the inspector: by the code, what it means and what to do about it.

import assert from 'node:assert/strict'
import { after, before } from 'node:test'

import { Pane, Server, inspector, scene, see, token, useBrowser } from './support.js'

let server
let codes
useBrowser()
before(async () => {
  // Refusals come at once.
  server = await Server.start({ API_JWT_SECRET: undefined, CHANNEL_ERROR_BACKOFF_MS: '50', CONNECT_ERROR_BACKOFF_MS: '50' })
  const list = await (await fetch(`${server.http}/inspector/codes.json`)).json()
  // What stands between backquotes is shown as code, without them.
  const shown = (text) => text.replaceAll('`', '')
  codes = new Map(list.map((entry) => [entry.code, { ...entry, meaning: shown(entry.meaning), remedy: shown(entry.remedy) }]))
})
after(() => server?.dispose())

/** The pane shows what this code means and what to do. */
async function explained(pane, code) {
  const entry = codes.get(code)
  assert.ok(entry, `${code} is in the list of codes`)
  const shown = pane.the('errors').locator(`.explained[data-code="${code}"]`)
  await see(shown, code)
  await see(shown, entry.meaning)
  await see(shown, entry.remedy)
}

/** A token whose signature is not that of the tenant's secret. */
const forged = () => token('anon').replace(/\.[^.]+$/, `.${Buffer.alloc(32, 1).toString('base64url')}`)

scene('a connection with a token of another secret', async (scene) => {
  scene.expect(/WebSocket connection to .* failed/, /answered 401/, /Failed to load resource.*401/)
  const pane = new Pane(await scene.open(inspector(server, { token: forged() })))
  await pane.click('connect')
  await see(pane.the('errors').locator('.explained'), /signature/i)
  await see(pane.the('errors').locator('.explained'), codes.get('JwtSignatureError').remedy)
})

scene('a token that has expired is noticed before anything is sent', async (scene) => {
  const pane = new Pane(await scene.open(inspector(server, { token: token('anon', -60) })))
  await see(pane.root, /expired 1 minute ago/)
  await pane.put('token', 'not a token')
  await see(pane.root, /not a JWT/)
})

scene('a bearer of another secret: the channel is refused', async (scene) => {
  const pane = new Pane(await scene.open(inspector(server)))
  await pane.put('bearer', forged())
  await pane.click('connect')
  await explained(pane, 'JwtSignatureError')
  await see(pane.the('state'), 'Connected')
})

scene('a private channel of a tenant without a database', async (scene) => {
  const pane = new Pane(await scene.open(inspector(server, { private_channel: 'true' })))
  await pane.click('connect')
  await explained(pane, 'UnableToConnectToProject')
})

scene('a host that is none, and one where nobody listens', async (scene) => {
  scene.expect(/ERR_CONNECTION_REFUSED/)
  const pane = new Pane(await scene.open(inspector(server, { host: 'http://' })))
  await pane.click('connect')
  await see(pane.root, /host/i)
  await see(pane.the('state'), 'Disconnected')
  await pane.put('host', 'http://127.0.0.1:2')
  await pane.click('connect')
  await see(pane.the('errors'), /127\.0\.0\.1:2/)
})
