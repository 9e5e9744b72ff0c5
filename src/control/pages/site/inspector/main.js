// The page: one pane or two, the address that brings them back, and what this browser remembers.

import { homeOf, isSameHost, originOf } from '../lib/address.js'
import { inspect } from '../lib/token.js'
import { copy } from './dom.js'
import { explainer } from './explain.js'
import { forget, recall, remember } from './memory.js'
import { Pane } from './pane.js'
import { FIELDS, fromParams, initialSettings, toParams } from './settings.js'

/** Browsers allow so many changes of the address per time and then throw; the last one is made after this. */
const ADDRESS_RETRY_MS = 2_000

const find = (id) => document.getElementById(id)

class Page {
  #params = new URLSearchParams(location.search)
  #explain
  #base
  #offered
  #panes = {}
  #withToken = this.#params.has('token')
  #retry = null
  /** Whether somebody has typed a token or a bearer into the first pane. */
  #hasTyped = false

  /** `defaults` and `codes` are what the server says at `/inspector/defaults.json` and `codes.json`. */
  constructor(defaults, codes) {
    this.#explain = explainer(codes)
    this.#base = { ...initialSettings(), host: homeOf(defaults) }
    this.#offered = defaults.token ?? ''
    if (defaults.why) find('why').textContent = defaults.why
    this.#panes.a = this.#make('a', this.#firstSettings())
    if (this.#params.get('second') === '1') this.#openSecond(fromParams(this.#params, 'b_'))
    find('share-token').checked = this.#withToken
    this.#wire()
  }

  /** What the address says, then what was remembered for its host, then what the server offers. */
  #firstSettings() {
    const given = fromParams(this.#params)
    const typed = given.host ?? this.#base.host
    const host = originOf(typed) ?? typed
    return { ...this.#base, ...this.#secretsFor(host), ...given, host }
  }

  /** The token and the bearer to begin with at a host. */
  #secretsFor(host) {
    // A token of this server is of no use to another one.
    const offered = host === this.#base.host ? this.#offered : ''
    return { token: offered, bearer: '', ...this.#recalled(host, offered) }
  }

  /** What was remembered, where it is better than what is offered. */
  #recalled(host, offered) {
    const kept = recall()
    if (kept?.host !== host) return {}
    const hasExpired = inspect(kept.token).claims?.exp <= Date.now() / 1000
    const isBetter = kept.token !== '' && (offered === '' || !hasExpired)
    return isBetter ? { token: kept.token, bearer: kept.bearer } : { bearer: kept.bearer }
  }

  #wire() {
    find('open-second').addEventListener('click', () => {
      this.#openSecond()
      this.#panes.b.focus()
      this.#writeAddress()
    })
    find('share').addEventListener('click', async () => {
      const done = await copy(location.href)
      this.#say(done ? 'Copied.' : 'The browser does not let this page copy; the link is the address above.')
    })
    find('share-token').addEventListener('change', ({ target }) => {
      this.#withToken = target.checked
      this.#writeAddress()
    })
    find('forget').addEventListener('click', () => {
      forget()
      this.#hasTyped = false
      this.#withToken = find('share-token').checked = false
      for (const pane of Object.values(this.#panes)) pane.fill({ token: '', bearer: '' })
      this.#writeAddress()
      this.#say('Forgotten.')
    })
  }

  #openSecond(changed = {}) {
    if (this.#panes.b) return
    const first = this.#panes.a.settings
    const host = changed.host ?? first.host
    // A link may lead to any server: what the first pane has for its own is not for that one.
    const secrets = isSameHost(host, first.host) ? {} : this.#secretsFor(originOf(host) ?? host)
    this.#panes.b = this.#make('b', { ...first, ...secrets, ...changed })
    find('open-second').hidden = true
    const close = find('close-second')
    close.hidden = false
    close.addEventListener('click', () => this.#closeSecond())
  }

  #closeSecond() {
    this.#panes.b.dispose()
    this.#panes.b.element.remove()
    delete this.#panes.b
    find('open-second').hidden = false
    find('open-second').focus()
    this.#writeAddress()
  }

  #make(name, settings) {
    const element = find('pane-template').content.cloneNode(true).querySelector('.pane')
    element.dataset.pane = name
    if (name === 'a') element.querySelector('#close-second').remove()
    const pane = new Pane({
      element,
      name,
      identity: `user_${100 + Math.floor(Math.random() * 900)}`,
      explain: this.#explain,
      onChange: (setting) => {
        if (name === 'a') this.#onFirst(setting)
        this.#writeAddress()
      },
    })
    pane.fill(settings)
    find('panes').append(element)
    return pane
  }

  /** Somebody has changed a setting of the first pane. */
  #onFirst(setting) {
    const { host, token, bearer } = this.#panes.a.settings
    this.#panes.b?.follow(setting, this.#panes.a.settings)
    if (setting === 'token' || setting === 'bearer') this.#hasTyped = true
    // The host may be typed after what is secret for it.
    if (this.#hasTyped && ['host', 'token', 'bearer'].includes(setting)) remember({ host: originOf(host) ?? host, token: token === this.#offered ? '' : token, bearer })
  }

  /** Brings the address up to what is set. Parameters that are not ours stay. */
  #writeAddress() {
    clearTimeout(this.#retry)
    const { a, b } = this.#panes
    const params = new URLSearchParams(location.search)
    for (const name of ['project', 'second', ...FIELDS.flatMap(({ name }) => [name, `b_${name}`])]) params.delete(name)
    toParams(params, a.settings, this.#base, { withToken: this.#withToken })
    if (b) {
      params.set('second', '1')
      toParams(params, b.settings, a.settings, { prefix: 'b_' })
    }
    const query = params.toString()
    try {
      history.replaceState(null, '', `${location.pathname}${query ? `?${query}` : ''}${location.hash}`)
    } catch {
      this.#retry = setTimeout(() => this.#writeAddress(), ADDRESS_RETRY_MS)
    }
  }

  #say(text) {
    find('page-status').textContent = text
  }
}

/** A document of this server, or what counts without it. */
async function fetched(path, otherwise) {
  try {
    const answer = await fetch(path, { cache: 'no-cache' })
    return answer.ok ? await answer.json() : otherwise
  } catch {
    return otherwise
  }
}

const [defaults, codes] = await Promise.all([fetched('/inspector/defaults.json', {}), fetched('/inspector/codes.json', [])])
new Page(defaults, codes)
