/** What happened, in order: a fingerprint of all of it, and the last lines for humans. */
export interface Trace {
  readonly add: (at: number, what: string, request: number, more?: unknown) => void
  readonly fingerprint: () => string
  readonly lines: () => ReadonlyArray<string>
}

interface Entry {
  readonly at: number
  readonly what: string
  readonly request: number
  readonly more: unknown
}

/** Keeps the last `kept` entries. */
export const make = (kept: number): Trace => {
  const entries: Array<Entry> = []
  let next = 0
  let high = 0x811c9dc5
  let low = 0x1000193
  return {
    add: (at, what, request, more) => {
      high = Math.imul(high ^ codeOf(what), 0x01000193) ^ request
      low = Math.imul(low ^ Math.round(at * 1000), 0x85ebca6b) ^ high
      entries[next] = { at, what, request, more }
      next = (next + 1) % kept
    },
    fingerprint: () => [high, low].map((bits) => (bits >>> 0).toString(16).padStart(8, "0")).join(""),
    lines: () => [...entries.slice(next), ...entries.slice(0, next)].map(line)
  }
}

const line = ({ at, more, request, what }: Entry): string => {
  const whose = request === 0 ? "" : ` #${request}`
  const said = more === undefined ? "" : ` ${typeof more === "string" ? more : JSON.stringify(more, brief)}`
  return `${(at / 1000).toFixed(3).padStart(9)} s  ${what}${whose}${said}`
}

const brief = (key: string, value: unknown): unknown =>
  key === "_tag" || key === "request" || key === "message" || key === "served" || key === "notice" || key === "attempts"
    ? undefined
    : value

const codes = new Map<string, number>()

const codeOf = (what: string): number => {
  const known = codes.get(what)
  if (known !== undefined) return known
  let code = 0
  for (const char of what) code = Math.imul(code, 31) + char.charCodeAt(0)
  if (codes.size < 10_000) codes.set(what, code)
  return code
}
