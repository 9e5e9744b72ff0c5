// How the pages look: pictures at three widths in both colour schemes, kept in tests/output/browser for people to look at; nothing
// scrolls sideways, and axe finds nothing that keeps anybody out.

import assert from 'node:assert/strict'
import { after, before } from 'node:test'
import axe from 'axe-core'

import { Pane, Server, inspector, picture, repeated, scene, see, useBrowser } from './support.js'

const DASHBOARD = { DASHBOARD_USER: 'operator', DASHBOARD_PASSWORD: 'of this test' }
const WIDTHS = [360, 1024, 1600]
const SCHEMES = ['light', 'dark']

let server
useBrowser()
before(async () => (server = await Server.start({ API_JWT_SECRET: undefined, ...DASHBOARD })))
after(() => server?.dispose())

/** The pages, each with a way to it and to something that is worth a look. */
const PAGES = [
  { name: 'index', path: '/' },
  { name: 'error', path: '/nothing/here', complaints: [/answered 404/, /Failed to load resource.*404/] },
  {
    name: 'status',
    path: '/status',
    // It has been there long enough to show rates.
    prepare: (page) => see(page.locator('main'), /io_uring|epoll/),
  },
  {
    name: 'dashboard',
    path: '/admin/dashboard',
    options: { httpCredentials: { username: DASHBOARD.DASHBOARD_USER, password: DASHBOARD.DASHBOARD_PASSWORD } },
    prepare: (page) => see(page.locator('main'), 'realtime-dev'),
  },
  { name: 'inspector-new', path: '/inspector/new', prepare: (page) => see(new Pane(page).the('connect'), /./) },
  {
    name: 'inspector-connected',
    path: () => inspector(server, { enable_presence: 'true', self: 'true', ack: 'true', second: '1' }),
    async prepare(page) {
      const [a, b] = [new Pane(page, 'a'), new Pane(page, 'b')]
      await a.connect()
      await b.connect()
      for (let n = 1; n <= 8; n += 1) {
        await a.send('greeting', { text: `number ${n} of a few, long enough that it does not fit into one line of a narrow window` })
        await see(b.frames('in', 'broadcast'), `number ${n}`)
      }
      await a.put('track-payload', '{"name": "Ann", "online_at": "2026-01-01T12:00:00Z"}')
      await a.click('track')
      await see(b.the('presence-list'), 'Ann')
    },
  },
  {
    name: 'inspector-refused',
    path: () => inspector(server, { private_channel: 'true' }),
    async prepare(page) {
      const pane = new Pane(page)
      await pane.click('connect')
      await see(pane.the('errors').locator('.explained'), /./)
    },
  },
  {
    name: 'cursors',
    path: '/demo/cursors?name=Ann&room=look',
    async prepare(page, scene) {
      await see(page.locator('#state'), 'Joined')
      const other = await scene.open(`${server.http}/demo/cursors?name=Bob&room=look`)
      const point = async (window, x, y) => {
        const box = await window.locator('#stage').boundingBox()
        await window.mouse.move(box.x + x * box.width, box.y + y * box.height)
      }
      for (const window of [page, other]) await see(window.locator('#count'), '2')
      await point(page, 0.3, 0.4)
      let side = 0
      await repeated(() => point(other, 0.85, 0.7 + 0.01 * (side = 1 - side)), page.locator('#people li').filter({ hasText: /Bob.*moving, bottom right/s }))
      await see(page.locator('#stage .cursor'), 'Bob')
    },
  },
]

for (const { name, path, options, complaints = [], prepare } of PAGES) {
  for (const scheme of SCHEMES) {
    scene(`${name}, ${scheme}: nothing scrolls sideways, nobody is kept out`, async (scene) => {
      scene.expect(...complaints)
      const where = typeof path === 'function' ? path() : server.http + path
      const page = await scene.open(where, { ...options, colorScheme: scheme, viewport: { width: WIDTHS[0], height: 800 } })
      await prepare?.(page, scene)
      for (const width of WIDTHS) {
        await page.setViewportSize({ width, height: width === 360 ? 800 : 1000 })
        const { scrollWidth, widest } = await page.evaluate(() => {
          const widest = [...document.querySelectorAll('body *')].filter((element) => element.getBoundingClientRect().right > innerWidth + 1)
          return { scrollWidth: document.documentElement.scrollWidth, widest: widest.slice(0, 5).map((element) => element.outerHTML.slice(0, 120)) }
        })
        assert.ok(scrollWidth <= width, `at ${width} px it is ${scrollWidth} px wide: ${widest.join('\n')}`)
        await picture(page, `${name}-${width}-${scheme}`)
        if (width !== 1024) assert.deepEqual(await violations(page), [], `axe at ${width} px`)
      }
    })
  }
}

/** What axe has to say, a line each. Its code comes by the debugging interface, so the page's own policy stays in force. */
async function violations(page) {
  if (!(await page.evaluate(() => 'axe' in globalThis))) await page.evaluate(axe.source)
  const found = await page.evaluate(() =>
    globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'], resultTypes: ['violations'], preload: false }),
  )
  return found.violations.flatMap(({ id, help, nodes }) =>
    nodes.map(({ html, failureSummary }) => `${id}: ${help}: ${html.slice(0, 200)}: ${failureSummary.split('\n').slice(1).join(' ').trim()}`),
  )
}
