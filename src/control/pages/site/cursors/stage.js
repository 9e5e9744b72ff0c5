// The area with the cursors: draws them, lets them glide and fade, shows ripples, and tells where the own pointer is.
//
// Positions are parts of the area, 0 to 1 in both directions, so that windows of any size agree. Draws only while something moves.

import { Glide } from './glide.js'

/** How far an arrow key moves the cursor, and with Shift. */
const KEY_STEP = 0.02
const KEY_STEP_LARGE = 0.1
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }
/** Labels are put on the other side of the pointer where they would not fit. */
const LABEL_AT_LEFT_FROM = 0.8
const LABEL_AT_TOP_FROM = 0.85
/** More ripples at once are not drawn. */
const RIPPLES_SHOWN_MAX = 64

export class Stage {
  #cursors = new Map()
  #frame = 0
  #framedAt = 0
  #size = { width: 1, height: 1 }
  #stillness = matchMedia('(prefers-reduced-motion: reduce)')

  /**
   * @param {HTMLElement} element the area
   * @param {HTMLTemplateElement} template a cursor
   * @param {{me: string, moved: (x: number, y: number) => void, rippled: (x: number, y: number) => void}} told
   */
  constructor(element, template, told) {
    this.element = element
    this.template = template
    this.me = told.me
    this.told = told
    this.own = [0.5, 0.4]
    element.addEventListener('pointermove', (event) => this.#pointed(event))
    element.addEventListener('pointerdown', (event) => {
      if (event.button !== 0) return
      this.#pointed(event)
      this.#ripple()
    })
    element.addEventListener('keydown', (event) => this.#typed(event))
    new ResizeObserver(() => this.#measure()).observe(element)
    this.#measure()
  }

  /** Shows these people, and nobody else. */
  show(people) {
    const here = new Set(people.map(({ id }) => id))
    for (const [id, { element }] of this.#cursors) {
      if (here.has(id)) continue
      element.remove()
      this.#cursors.delete(id)
    }
    for (const person of people) {
      if (person.at) this.#cursor(person)
    }
  }

  /** Somebody is somewhere else now. */
  move(person, now) {
    const cursor = this.#cursor(person)
    cursor.glide.to(...person.at, now)
    // The own cursor is where the hand is, and nothing glides for those who want no motion.
    if (person.id === this.me || this.#stillness.matches) cursor.glide.jump()
    this.fade(person, false)
    this.#draw()
  }

  /** Somebody is idle, or no longer. */
  fade(person, isIdle) {
    this.#cursors.get(person.id)?.element.classList.toggle('idle', isIdle)
  }

  /** Somebody has clicked here. */
  ripple(person, x, y) {
    if (this.element.querySelectorAll('.ripple').length >= RIPPLES_SHOWN_MAX) return
    const ripple = document.createElement('div')
    ripple.className = `ripple hue-${person.hue}`
    ripple.dataset.person = person.id
    place(ripple, x, y, this.#size)
    ripple.addEventListener('animationend', () => ripple.remove())
    this.element.append(ripple)
  }

  /** The cursor of a person, made when there is none, with today's name and colour. */
  #cursor(person) {
    let cursor = this.#cursors.get(person.id)
    if (!cursor) {
      const element = this.template.content.firstElementChild.cloneNode(true)
      element.dataset.person = person.id
      cursor = { element, glide: new Glide(...person.at) }
      this.#cursors.set(person.id, cursor)
      this.element.append(element)
      this.#draw()
    }
    const { element } = cursor
    element.classList.toggle('me', person.id === this.me)
    for (const name of [...element.classList]) if (name.startsWith('hue-')) element.classList.remove(name)
    element.classList.add(`hue-${person.hue}`)
    const label = element.querySelector('.name')
    if (label.textContent !== person.name) label.textContent = person.name
    return cursor
  }

  #measure() {
    this.#size = { width: this.element.clientWidth, height: this.element.clientHeight }
    this.#draw()
  }

  #draw() {
    if (this.#frame) return
    this.#framedAt = performance.now()
    this.#frame = requestAnimationFrame((now) => this.#step(now))
  }

  #step(now) {
    this.#frame = 0
    const ms = Math.max(0, now - this.#framedAt)
    this.#framedAt = now
    let goesOn = false
    for (const { element, glide } of this.#cursors.values()) {
      if (glide.step(ms)) goesOn = true
      place(element, glide.x, glide.y, this.#size)
      element.classList.toggle('to-left', glide.x > LABEL_AT_LEFT_FROM)
      element.classList.toggle('to-top', glide.y > LABEL_AT_TOP_FROM)
    }
    if (goesOn) this.#frame = requestAnimationFrame((later) => this.#step(later))
  }

  #pointed(event) {
    const box = this.element.getBoundingClientRect()
    this.#go((event.clientX - box.left - this.element.clientLeft) / this.#size.width, (event.clientY - box.top - this.element.clientTop) / this.#size.height)
  }

  #typed(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return
    const direction = KEYS[event.key]
    if (direction) {
      const step = event.shiftKey ? KEY_STEP_LARGE : KEY_STEP
      this.#go(this.own[0] + step * direction[0], this.own[1] + step * direction[1])
    } else if ((event.key === 'Enter' || event.key === ' ') && !event.repeat) {
      this.#ripple()
    } else {
      return
    }
    event.preventDefault()
  }

  #go(x, y) {
    const inside = (value) => Math.min(1, Math.max(0, value))
    this.own = [inside(x), inside(y)]
    this.told.moved(...this.own)
  }

  #ripple() {
    this.told.rippled(...this.own)
  }
}

function place(element, x, y, { width, height }) {
  element.style.setProperty('transform', `translate(${(x * width).toFixed(1)}px, ${(y * height).toFixed(1)}px)`)
}
