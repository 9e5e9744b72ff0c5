// Work that is done once per frame of the screen, however often it is asked for.

/** A function that runs `action` before the next paint, once for any number of calls until then. */
export function eachFrame(action) {
  let isDue = false
  return () => {
    if (isDue) return
    isDue = true
    requestAnimationFrame(() => {
      isDue = false
      action()
    })
  }
}
