/**
 * Finds out whether a text has begun to repeat itself without end, as models do when they get stuck.
 *
 * A text loops when it ends in the same unit of characters, over and over: a word, a line, a paragraph, a single sign. Tables, code,
 * lists, rulers and refrains repeat themselves too, so how much repetition is too much depends on what is repeated:
 *
 * | unit                                                      | at least          | in a row | longest unit |
 * | --------------------------------------------------------- | ----------------- | -------- | ------------ |
 * | `prose`: words without any of the signs of code and data  | 2 048 characters  | 6 times  | 2 048        |
 * | `other`: everything else                                  | 4 096 characters  | 16 times | 768          |
 *
 * 2 048 characters are some 500 tokens: far more than a refrain, far less than what a stuck model says until its limit stops it. Empty
 * tables, matrices of zeros, forms to fill in and pages of equal cards are longer and consist of markup, digits and rules, so they have
 * twice the room. An answer that was cut off at its length (`isCut`) while it repeated itself did not end by itself, which is what
 * makes a loop: there, half of all these numbers is enough.
 *
 * Only exact repetition counts. A loop that counts upwards or changes a word each time is not found, because a numbered list looks the
 * same. An answer that was asked to say the same thing a hundred times is taken for a loop.
 *
 * The detector is pure apart from its window: it keeps the last 12 288 characters (three times the larger of the two lengths) and looks
 * at them every 512. A look first asks whether the last few characters were there before. If they were, it finds the smallest period of
 * every ending of the window in one pass (the prefix function of Knuth, Morris and Pratt, backwards). So the time is linear in the length
 * of the text, whatever the text is, and the verdict is exact.
 *
 * @since 0.1.0
 */

/**
 * How much repetition is a loop: the unit fills at least `length` characters and occurs at least `repeats` times in a row.
 *
 * @category models
 * @since 0.1.0
 */
export interface Limit {
  readonly length: number
  readonly repeats: number
}

/**
 * The limits of {@link make}: for units of `prose`, and for `other` ones; see the module's documentation.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly prose?: Limit | undefined
  readonly other?: Limit | undefined
}

/**
 * A loop that was found: the last `length` characters are one unit of `period` characters, again and again.
 *
 * @category models
 * @since 0.1.0
 */
export interface Loop {
  readonly period: number
  readonly length: number
}

/**
 * Reads a text bit by bit.
 *
 * **Details**
 *
 * `push` adds to the text and returns the loop that it is in, if it is in one and it is time to look. `end` looks at the end of a text
 * that was cut off at its length.
 *
 * @category models
 * @since 0.1.0
 */
export interface Detector {
  readonly push: (text: string) => Loop | undefined
  readonly end: () => Loop | undefined
}

const defaults: Limits = { prose: { length: 2048, repeats: 6 }, other: { length: 4096, repeats: 16 } }

/** How many characters pass between two looks. */
const interval = 512

/**
 * Creates a detector for one text.
 *
 * **Details**
 *
 * Lengths are integers from 64 to 16 384, repeats integers of at least 2; anything else throws a `RangeError`.
 *
 * **Example** (Stopping a model that is stuck)
 *
 * ```ts import.meta.vitest
 * import { Loop } from "@llm-resilience/core"
 *
 * const detector = Loop.make()
 * let said = 0
 * let loop: Loop.Loop | undefined
 * while (loop === undefined) {
 *   const token = ["I ", "am ", "stuck. "][said++ % 3] ?? ""
 *   loop = detector.push(token)
 * }
 *
 * loop // => { period: 12, length: 2048 }
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options?: Options): Detector => new Reading(limitsOf(options))

/**
 * Returns the loop that a whole text is or was in, or `undefined`.
 *
 * **Details**
 *
 * `isCut` says that the text was cut off at its length; see the module's documentation.
 *
 * **Example** (Telling a loop from a table)
 *
 * ```ts import.meta.vitest
 * import { Loop } from "@llm-resilience/core"
 *
 * Loop.find("And again. ".repeat(1000)) // => { period: 11, length: 2048 }
 * Loop.find("| 0.0 | 0.0 | 0.0 |\n".repeat(100)) // => undefined
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const find = (text: string, options?: Options & { readonly isCut?: boolean | undefined }): Loop | undefined => {
  const reading = make(options)
  return reading.push(text) ?? (options?.isCut === true ? reading.end() : undefined)
}

interface Limits {
  readonly prose: Limit
  readonly other: Limit
}

// Asked for each text, so the defaults are not looked at again.
const limitsOf = (options: Options | undefined): Limits => {
  if (options === undefined) return defaults
  const limits = { prose: options.prose ?? defaults.prose, other: options.other ?? defaults.other }
  for (const [kind, { length, repeats }] of Object.entries(limits)) {
    if (!Number.isInteger(length) || length < 64 || length > 16_384) {
      throw new RangeError(`Loop.make: ${kind}.length must be an integer from 64 to 16384, got ${length}`)
    }
    if (!Number.isInteger(repeats) || repeats < 2) {
      throw new RangeError(`Loop.make: ${kind}.repeats must be an integer >= 2, got ${repeats}`)
    }
  }
  return limits
}

// A class, because every answer has one.
class Reading implements Detector {
  readonly limits: Limits
  tail = ""
  dueAt: number

  constructor(limits: Limits) {
    this.limits = limits
    this.dueAt = Math.min(limits.prose.length, limits.other.length)
  }

  push(text: string): Loop | undefined {
    let from = 0
    while (this.tail.length + text.length - from >= this.dueAt) {
      const to = from + this.dueAt - this.tail.length
      this.tail += text.slice(from, to)
      from = to
      const loop = this.look()
      if (loop !== undefined) return loop
    }
    this.tail += text.slice(from)
    return undefined
  }

  look(): Loop | undefined {
    const { other, prose } = this.limits
    const window = 3 * Math.max(prose.length, other.length)
    if (this.tail.length > window) this.tail = this.tail.slice(-window)
    this.dueAt = this.tail.length + interval
    return atEnd(this.tail, this.limits)
  }

  end(): Loop | undefined {
    const { other, prose } = this.limits
    return atEnd(this.tail, { prose: half(prose), other: half(other) })
  }
}

const half = ({ length, repeats }: Limit): Limit => ({
  length: Math.ceil(length / 2),
  repeats: Math.max(2, Math.ceil(repeats / 2))
})

// `borders[i]` is how far the last i + 1 characters overlap with themselves when they are shifted. It is shared by all texts, because a
// look is over before the next one begins.
let borders = new Uint16Array(0)

const atEnd = (text: string, { other, prose }: Limits): Loop | undefined => {
  const size = text.length
  const shortest = Math.min(prose.length, other.length)
  if (size < shortest) return undefined
  if (borders.length < size) borders = new Uint16Array(size)
  const longestPeriod = Math.floor(size / Math.min(prose.repeats, other.repeats))
  if (!recurs(text, Math.min(32, shortest >> 1), longestPeriod)) return undefined
  let border = 0
  let known = 0
  let limit = prose
  borders[0] = 0
  for (let index = 1; index < size; index++) {
    const code = text.charCodeAt(size - 1 - index)
    while (border > 0 && code !== text.charCodeAt(size - 1 - border)) border = borders[border - 1] ?? 0
    if (code === text.charCodeAt(size - 1 - border)) border++
    borders[index] = border
    const length = index + 1
    const period = length - border
    // Longer endings have no shorter periods.
    if (period > longestPeriod) return undefined
    if (length < shortest || 2 * period > length) continue
    if (period !== known) {
      known = period
      limit = isProse(text.slice(size - period)) ? prose : other
      if (period * limit.repeats > size) return undefined
    }
    if (length >= limit.length && period * limit.repeats <= length) return { period, length }
  }
  return undefined
}

// Whatever ends in a loop ends in a few characters that were there one period before. That is quickly asked, and mostly answered by no.
const recurs = (text: string, probe: number, within: number): boolean => {
  const recent = text.slice(-(within + probe))
  return recent.lastIndexOf(text.slice(-probe), recent.length - probe - 1) !== -1
}

// Words with spaces between them, or in a script that needs none, and nothing that code, markup, tables and data are made of.
const isProse = (unit: string): boolean =>
  /\p{L}/u.test(unit) && /\s|\p{Lo}/u.test(unit) && !/[<>{}[\]()|=;_/\\`\t]/.test(unit)
