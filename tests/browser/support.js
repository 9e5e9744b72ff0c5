// What every test of a page needs: a browser, pages that are watched, and words for what is on them.
//
// A scene is a test with windows of its own. It fails on whatever a page complains of: an error or warning in the console, an
// exception, a request that fails or is answered by an error, anything that the content security policy forbids. What a test
// brings about on purpose it says beforehand, and then that must happen.
//
// Nothing here sleeps: a test waits for what a page shows, with a limit on how long.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { after, before, test } from 'node:test'
import { chromium } from 'playwright-core'

export { Server, token, within } from '../clients/support.js'

/** Where pictures of the pages are kept; not in the repository. */
const OUTPUT = fileURLToPath(new URL('../output/browser/', import.meta.url))

/** How long a page may take to show something, on a busy machine. */
export const TIMEOUT_MS = Number(process.env.BROWSER_TIMEOUT ?? 30_000)

/** Headless, and silent towards the network. */
const FLAGS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  // Containers give it 64 MB, less than a few windows take.
  '--disable-dev-shm-usage',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]

let browser

/** To be called once in each file of tests. */
export function useBrowser() {
  before(async () => (browser = await chromium.launch({ executablePath: executable(), args: FLAGS })))
  after(() => browser?.close())
}

/** CHROMIUM_BIN, or the first browser of this kind in the search path. */
function executable() {
  if (process.env.CHROMIUM_BIN) return process.env.CHROMIUM_BIN
  for (const name of ['chromium', 'chromium-browser', 'google-chrome']) {
    try {
      return execFileSync('sh', ['-c', `command -v ${name}`], { encoding: 'utf8' }).trim()
    } catch {
      // The next one.
    }
  }
  throw new Error("no browser: install Debian's package chromium, or set CHROMIUM_BIN")
}

/** A test with windows. `run` is given a `Scene`. */
export function scene(sentence, run) {
  test(sentence, { timeout: 6 * TIMEOUT_MS }, async () => {
    const scene = new Scene()
    try {
      await run(scene)
      await scene.settle()
    } catch (error) {
      // What a page complained of is most often the reason of what was not seen.
      if (scene.complaints.length > 0) error.message += `\nThe pages complained:\n${scene.complaints.join('\n')}`
      throw error
    } finally {
      await scene.close()
    }
    scene.check()
  })
}

export class Scene {
  complaints = []
  #contexts = []
  #allowed = []
  #isOver = false

  /** A window of somebody who has no other: storage of its own. `options` as for a context of playwright, such as `viewport` or `colorScheme`. */
  async open(url, options = {}) {
    const context = await browser.newContext({ reducedMotion: 'no-preference', viewport: { width: 1280, height: 900 }, ...options })
    context.setDefaultTimeout(TIMEOUT_MS)
    this.#contexts.push(context)
    await context.addInitScript(() => {
      document.addEventListener('securitypolicyviolation', ({ effectiveDirective, blockedURI, sample, sourceFile, lineNumber }) => {
        console.error(`the policy forbids: ${effectiveDirective} ${blockedURI} ${sample} (${sourceFile}:${lineNumber})`)
      })
    })
    context.on('page', (page) => this.#watch(page))
    const page = await context.newPage()
    await page.goto(url)
    return page
  }

  /** A complaint that the test brings about. It has to come. */
  expect(...patterns) {
    this.#allowed.push(...patterns.map((pattern) => ({ pattern, hasCome: false })))
  }

  #watch(page) {
    const complain = (text) => {
      if (this.#isOver) return
      const allowed = this.#allowed.find(({ pattern }) => pattern.test(text))
      if (allowed) allowed.hasCome = true
      else this.complaints.push(text)
    }
    page.on('console', (message) => {
      if (['error', 'warning'].includes(message.type())) complain(`${message.type()}: ${message.text()} (${message.location().url})`)
    })
    page.on('pageerror', (error) => complain(`exception: ${error.stack ?? error}`))
    page.on('requestfailed', (request) => {
      // What a window had asked for when it went elsewhere is given up.
      const why = request.failure()?.errorText
      if (why !== 'net::ERR_ABORTED') complain(`request failed: ${request.url()} ${why}`)
    })
    page.on('response', (answer) => answer.status() >= 400 && complain(`answered ${answer.status()}: ${answer.url()}`))
    page.on('crash', () => complain('the page crashed'))
  }

  /** Lets pages say what they still have to say. */
  async settle() {
    for (const context of this.#contexts) {
      for (const page of context.pages()) await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => setTimeout(done))))
    }
  }

  /** Whether the pages were content. */
  check() {
    assert.deepEqual(this.complaints, [], 'the pages complained')
    for (const { pattern, hasCome } of this.#allowed) assert.ok(hasCome, `no page complained ${pattern}`)
  }

  async close() {
    this.#isOver = true
    for (const context of this.#contexts) await context.close()
  }
}

/** Waits until an element contains the text, or matches the pattern. It has to be visible. */
export async function see(locator, expected) {
  try {
    await locator.filter({ hasText: expected }).filter({ visible: true }).first().waitFor({ timeout: TIMEOUT_MS })
  } catch (error) {
    if (error.name !== 'TimeoutError') throw error
    const texts = await locator.allInnerTexts()
    throw new Error(`waited for ${expected} in ${locator}, there is: ${texts.map((text) => JSON.stringify(text.slice(0, 2000))).join(', ') || 'nothing'}`)
  }
}

/** Does something again and again until an element is visible: for what is over before a busy machine has looked. */
export async function repeated(action, locator) {
  for (const end = Date.now() + TIMEOUT_MS; ; ) {
    await action()
    try {
      await locator.first().waitFor({ timeout: 1_000 })
      return
    } catch (error) {
      if (error.name !== 'TimeoutError' || Date.now() > end) throw error
    }
  }
}

/** Waits until `look` says something true, at once and not by a promise; it is asked again with each frame of the page. */
export async function until(page, what, look, argument) {
  try {
    return await page.waitForFunction(look, argument, { timeout: TIMEOUT_MS })
  } catch (error) {
    throw new Error(`waited for ${what}: ${error.message}`)
  }
}

/** Waits until the clipboard holds a text that contains this; the text. The page needs the permission. */
export async function copied(page, part) {
  await until(page, `${part} in the clipboard`, (part) => {
    // What was asked for comes later than the answer to this frame.
    navigator.clipboard.readText().then((text) => (globalThis.copied = text))
    return globalThis.copied?.includes(part)
  }, part)
  return page.evaluate(() => globalThis.copied)
}

/** A picture of a page, for people to look at. */
export async function picture(page, name) {
  mkdirSync(OUTPUT, { recursive: true })
  await page.screenshot({ path: `${OUTPUT}${name}.png`, fullPage: true })
}

/** One pane of the inspector: its elements by their role. */
export class Pane {
  constructor(page, name = 'a') {
    this.page = page
    this.root = page.locator(`section.pane[data-pane="${name}"]`)
  }

  /** The element of a role. */
  the(role) {
    return this.root.locator(`[data-role="${role}"]`)
  }

  /** Frames of the log. */
  frames(direction, kind) {
    const which = [direction && `[data-direction="${direction}"]`, kind && `[data-kind="${kind}"]`]
    return this.the('log').locator(`.frame${which.filter(Boolean).join('')}`)
  }

  async click(role) {
    await this.the(role).click()
  }

  /** Ticks or unticks. */
  async tick(role, isOn = true) {
    await this.the(role).setChecked(isOn)
  }

  /** Writes into a field, or chooses. */
  async put(role, value) {
    const field = this.the(role)
    if ((await field.evaluate(({ tagName }) => tagName)) === 'SELECT') await field.selectOption(value)
    else await field.fill(value)
  }

  /** What the fields hold, `true` or `false` for boxes. */
  async values(...roles) {
    const values = {}
    for (const role of roles) {
      values[role] = await this.the(role).evaluate((field) => (field.type === 'checkbox' ? field.checked : field.value))
    }
    return values
  }

  /** Connects and joins by the button. */
  async connect() {
    await this.click('connect')
    await this.joined()
  }

  async joined() {
    await see(this.the('state'), 'Connected')
    await see(this.the('channel-state'), 'Joined')
  }

  /** Sends a broadcast by the form. */
  async send(event, payload) {
    await this.put('send-event', event)
    await this.put('send-payload', typeof payload === 'string' ? payload : JSON.stringify(payload))
    await this.click('send')
  }
}

let rooms = 0

/** A channel that no other test uses. */
export const anyRoom = () => `room-${process.pid}-${++rooms}`

/** The inspector's address with settings. */
export function inspector(server, settings = {}) {
  return `${server.http}/inspector/new?${new URLSearchParams({ channel: anyRoom(), ...settings })}`
}
