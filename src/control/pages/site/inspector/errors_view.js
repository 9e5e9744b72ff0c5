// The errors of a pane, each with what it means and what to do, and a note at the field that it is about.

import { make } from './dom.js'

/** Errors that are shown; older ones are in the log. */
const ERRORS_MAX = 5
/** A note at a field says no more than this; all of it stands above. */
const NOTE_CHARS_MAX = 120

export class ErrorsView {
  #element
  #fields
  /** By code and text: `{ element, count, where, field }`. */
  #shown = new Map()

  /** `fields` finds the control and the note of a field: `{ control, note }` or null. */
  constructor(element, fields) {
    this.#element = element
    this.#fields = fields
  }

  /** Shows an explanation. `where` says what makes it pass: see `clear`. */
  show(explained, where) {
    const { code, text } = explained
    const key = `${code} ${text}`
    const known = this.#shown.get(key)
    if (known) {
      known.count += 1
      known.times.textContent = `${known.count} times`
      this.#element.prepend(known.element)
      return
    }
    const times = make('span', { class: 'muted' })
    const element = this.#card(explained, times, key)
    this.#shown.set(key, { element, times, count: 1, where, field: explained.field })
    this.#element.prepend(element)
    this.#mark(explained)
    if (this.#shown.size > ERRORS_MAX) this.#drop(this.#shown.keys().next().value)
  }

  /** Takes away those of one kind, or all. */
  clear(where = null) {
    for (const [key, one] of [...this.#shown]) if (where === null || one.where === where) this.#drop(key)
  }

  /** Takes the note from a field: somebody has changed it. */
  touched(field) {
    this.#note(field, '')
  }

  #card({ code, text, meaning, remedy, field }, times, key) {
    const control = field && this.#fields(field)?.control
    return make(
      'div',
      { class: 'explained', 'data-code': code },
      make('div', { class: 'row apart' }, make('span', {}, make('span', { class: 'code mono', text: code }), ' ', times), make(
        'span',
        { class: 'row' },
        control && make('button', { class: 'btn small', type: 'button', text: 'Go to the field', click: () => control.focus() }),
        make('button', { class: 'btn small', type: 'button', text: 'Dismiss', 'aria-label': `Dismiss ${code}`, click: () => this.#drop(key) }),
      )),
      make('p', { class: 'said', text }),
      meaning && make('p', { class: 'meaning' }, withCode(meaning)),
      remedy && make('p', { class: 'remedy' }, make('strong', { text: 'What to do: ' }), withCode(remedy)),
    )
  }

  #drop(key) {
    const one = this.#shown.get(key)
    if (!one) return
    const hadFocus = one.element.contains(document.activeElement)
    const next = one.element.nextElementSibling ?? one.element.previousElementSibling
    one.element.remove()
    this.#shown.delete(key)
    // Who goes through them by the keyboard must not begin anew at the top of the page.
    if (hadFocus) (next?.querySelector('button:last-of-type') ?? this.#element).focus()
    if (one.field) this.#note(one.field, '')
  }

  #mark({ code, text, field }) {
    if (field) this.#note(field, text.length <= NOTE_CHARS_MAX ? `${code}: ${text}` : `${code}: see above.`)
  }

  #note(field, text) {
    const found = this.#fields(field)
    if (!found?.note) return
    found.note.textContent = text
    if (text) found.control.setAttribute('aria-invalid', 'true')
    else found.control.removeAttribute('aria-invalid')
  }
}

/** A sentence in which what stands between backquotes is code. */
function withCode(sentence) {
  return sentence.split('`').map((part, index) => (index % 2 === 1 ? make('code', { text: part }) : part))
}
