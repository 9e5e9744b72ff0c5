// Making elements, in one expression each.

/** An element with attributes (`text` is its text, a function a listener) and children; null and false are left out. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === false || value === undefined) continue
    if (name === 'text') element.textContent = value
    else if (typeof value === 'function') element.addEventListener(name, value)
    else element.setAttribute(name, value === true ? '' : value)
  }
  element.append(...children.flat().filter((child) => child !== null && child !== false && child !== undefined))
  return element
}

const SVG = 'http://www.w3.org/2000/svg'

/** The same for SVG, where attributes are all there is. */
export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  element.append(...children)
  return element
}

/** Copies text to the clipboard; false where the browser forbids it, as it does on pages without TLS. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    // The old way needs a field that holds the text and has the focus.
    const field = make('textarea', { class: 'visually-hidden', 'aria-hidden': 'true', tabindex: '-1' })
    field.value = text
    const before = document.activeElement
    document.body.append(field)
    field.select()
    const done = document.execCommand('copy')
    field.remove()
    before?.focus()
    return done
  }
}

/** Offers text as a file. */
export function download(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }))
  make('a', { href: url, download: name }).click()
  // The browser has taken it when the click returns; the address may go a moment later.
  setTimeout(() => URL.revokeObjectURL(url), 1_000)
}
