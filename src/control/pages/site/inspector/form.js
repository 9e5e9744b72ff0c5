// The fields of a pane's settings: what they say, who has changed them, and what can be said about the tokens in them.

import { originOf } from '../lib/address.js'
import { duration, inspect } from '../lib/token.js'
import { FIELDS } from './settings.js'

export class Form {
  #parts
  #touched = new Set()
  #onChange

  /** `onChange` hears the name of a field that somebody has changed. */
  constructor(parts, onChange) {
    this.#parts = parts
    this.#onChange = onChange
    for (const { name } of FIELDS) {
      const control = this.control(name)
      control.addEventListener(control.type === 'checkbox' || control.tagName === 'SELECT' ? 'change' : 'input', () => {
        this.#touched.add(name)
        this.hint()
        onChange(name)
      })
    }
    this.control('host').addEventListener('change', () => this.#cutHost())
  }

  /** The element of a setting. */
  control(name) {
    const role = { self: 'broadcast_self', ack: 'broadcast_ack' }[name] ?? name
    return this.#parts[role]
  }

  get settings() {
    return Object.fromEntries(
      FIELDS.map(({ name }) => {
        const control = this.control(name)
        return [name, control.type === 'checkbox' ? control.checked : control.value]
      }),
    )
  }

  /** Fills in these settings, others stay. */
  fill(settings) {
    for (const [name, value] of Object.entries(settings)) {
      const control = this.control(name)
      if (control.type === 'checkbox') control.checked = value
      else control.value = value
    }
    this.hint()
  }

  /** Takes over a setting of another form, unless somebody has changed it here. */
  follow(name, value) {
    if (!this.#touched.has(name)) this.fill({ [name]: value })
  }

  /** Says what is known about the tokens; called again as time goes by. */
  hint() {
    for (const name of ['token', 'bearer']) {
      const hint = this.#parts[`${name}-hint`]
      const text = this.control(name).value
      const { claims, problem } = inspect(text)
      // No user's token is what most have.
      const said = name === 'bearer' && text.trim() === '' ? '' : (problem ?? summary(claims))
      if (hint.textContent !== said) hint.textContent = said
      hint.classList.toggle('warn', Boolean(problem))
    }
  }

  /** A pasted address becomes its origin, a bare word the address of a project. */
  #cutHost() {
    const control = this.control('host')
    const origin = originOf(control.value)
    if (origin === null || origin === control.value) return
    control.value = origin
    this.#onChange('host')
  }
}

function summary({ role, sub, exp }) {
  const seconds = exp - Date.now() / 1000
  return `Role ${role}${sub ? `, user ${sub}` : ''}, good for ${duration(seconds)}.`
}
