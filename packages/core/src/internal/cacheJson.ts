/**
 * Canonical JSON (RFC 8785) of any value: two values have the same text exactly when they mean the same.
 *
 * Names are sorted by UTF-16 code units, numbers and strings are written as ECMAScript writes them, fields that are `undefined` do not
 * exist. What JSON does not have is written as an object with one field whose name begins with `~`; a name of the value's own that begins
 * so gets another `~`, so the two are never confused. Throws on values that are cyclic or deeper than 64 levels, and on a text longer than
 * `maxLength`.
 */
export const canonical = (value: unknown, maxLength = Infinity): string => write(value, 0, { left: maxLength })

interface Room {
  left: number
}

const maxDepth = 64

const write = (value: unknown, depth: number, room: Room): string => {
  switch (typeof value) {
    case "string":
      return take(JSON.stringify(value), room)
    case "number":
      return take(Number.isFinite(value) ? JSON.stringify(value) : `{"~number":"${value}"}`, room)
    case "boolean":
      return value ? "true" : "false"
    case "bigint":
      return take(`{"~bigint":"${value}"}`, room)
    case "object":
      if (value === null) return "null"
      break
    default:
      return "null"
  }
  if (depth >= maxDepth) throw new RangeError("canonical: the value is cyclic or too deep")
  if (Array.isArray(value)) {
    let text = "["
    for (let i = 0; i < value.length; i++) text += (i === 0 ? "" : ",") + write(value[i], depth + 1, room)
    room.left -= value.length
    return `${text}]`
  }
  if (ArrayBuffer.isView(value)) {
    const bytes = new Uint8Array(value.buffer, value.byteOffset, value.byteLength)
    // Two characters of the text for each byte, as below, before any work is done.
    if (bytes.length * 2 > room.left) throw new RangeError("canonical: the value is too long")
    return take(`{"~bytes":"${hex(bytes)}"}`, room)
  }
  if ("toJSON" in value && typeof value.toJSON === "function") {
    return `{"~json":${write(value.toJSON(), depth + 1, room)}}`
  }
  const fields = value as { readonly [name: string]: unknown }
  const prototype: unknown = Object.getPrototypeOf(value)
  // A map, a set or a wrapper would look like an empty object.
  if (prototype !== Object.prototype && prototype !== null && Symbol.iterator in value) {
    return `{"~list":${write(Array.from(value as Iterable<unknown>), depth + 1, room)}}`
  }
  let text = "{"
  for (const name of Object.keys(value).toSorted()) {
    const field = fields[name]
    if (field === undefined || typeof field === "function" || typeof field === "symbol") continue
    const written = take(JSON.stringify(name.startsWith("~") ? `~${name}` : name), room)
    text += `${text.length === 1 ? "" : ","}${written}:${write(field, depth + 1, room)}`
  }
  return `${text}}`
}

const take = (text: string, room: Room): string => {
  room.left -= text.length
  if (room.left < 0) throw new RangeError("canonical: the value is too long")
  return text
}

const hex = (bytes: Uint8Array): string => {
  let text = ""
  for (const byte of bytes) text += (byte < 16 ? "0" : "") + byte.toString(16)
  return text
}
