/** Changes a text only where it is another: what stays can be selected, and is not read out again. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text
}
