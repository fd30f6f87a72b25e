/**
 * Joins the rest of an answer to what its reader has already seen, without a repeated and without a missing character.
 *
 * A pure machine that is fed the text of the new stream. `Suppressing` expects it to repeat what was emitted and passes on what comes
 * after; the first different character is a mismatch. `Deciding` expects a continuation, but holds it back as long as it could just as
 * well be the whole answer from the start: a model that ignores a prefill starts over, and that is a mismatch. `Trimming` drops the white space that the prefill
 * had to leave out although the reader has it. `Open` passes everything on.
 */
export type Seam =
  | { readonly _tag: "Suppressing"; readonly expected: string; readonly at: number }
  | { readonly _tag: "Deciding"; readonly emitted: string; readonly held: string; readonly whitespace: string }
  | { readonly _tag: "Trimming"; readonly whitespace: string }
  | { readonly _tag: "Open" }

/** What a seam makes of a text, or `undefined`: the new stream says something else than the reader has seen. */
type Step = readonly [Seam, emit: string] | undefined

const open: Seam = { _tag: "Open" }

/** The seam of a stream that starts the answer over. */
export const restarting = (emitted: string): Seam => suppressing(emitted, 0)

const suppressing = (expected: string, at: number): Seam =>
  at === expected.length ? open : { _tag: "Suppressing", expected, at }

/**
 * How to ask for a continuation of what was emitted, or `undefined` when a continuation could not be told from a new start: the text is
 * short, or it repeats itself, so that what follows may well begin like the whole. Providers refuse a prefill that ends in white space,
 * so the prefill is without it.
 */
export const continuing = (emitted: string): { readonly prefill: string; readonly seam: Seam } | undefined => {
  const prefill = emitted.trimEnd()
  if (prefill.length < 24 || repeatsItself(prefill.slice(0, 1024))) return undefined
  return { prefill, seam: { _tag: "Deciding", emitted, held: "", whitespace: emitted.slice(prefill.length) } }
}

// A text whose first half comes again in its second half, by the prefix function of Knuth, Morris and Pratt.
const repeatsItself = (text: string): boolean => {
  const borders = [0]
  for (let index = 1; index < text.length; index++) {
    let border = borders[index - 1] ?? 0
    while (border > 0 && text[border] !== text[index]) border = borders[border - 1] ?? 0
    borders.push(text[border] === text[index] ? border + 1 : 0)
  }
  return borders.some((border, index) => border >= 12 && border * 2 >= index + 1)
}

/** Feeds the next piece of the new stream's text. */
export const feed = (seam: Seam, text: string): Step => {
  switch (seam._tag) {
    case "Open":
      return [seam, text]
    case "Suppressing": {
      const due = seam.expected.slice(seam.at, seam.at + text.length)
      if (!text.startsWith(due)) return undefined
      return [suppressing(seam.expected, seam.at + due.length), text.slice(due.length)]
    }
    case "Deciding": {
      const held = seam.held + text
      // All of it again: a new start, or an answer that says it twice. A restart will tell.
      if (held.startsWith(seam.emitted)) return undefined
      if (seam.emitted.startsWith(held)) return [{ ...seam, held }, ""]
      return feed(trimming(seam.whitespace), held)
    }
    case "Trimming": {
      let common = 0
      while (common < seam.whitespace.length && common < text.length && seam.whitespace[common] === text[common])
        common++
      const undecided = common === text.length && common < seam.whitespace.length
      return undecided ? [trimming(seam.whitespace.slice(common)), ""] : [open, text.slice(common)]
    }
  }
}

const trimming = (whitespace: string): Seam => (whitespace === "" ? open : { _tag: "Trimming", whitespace })

/** Says what is left to emit when the new stream is finished, or `undefined` when it ended before it said what the reader has seen. */
export const finish = (seam: Seam): string | undefined => {
  switch (seam._tag) {
    case "Open":
    case "Trimming":
      return ""
    case "Suppressing":
      return undefined
    case "Deciding": {
      // A long beginning that stops is an answer that started over and ended early; a short one is the last words of a continuation.
      if (seam.held.length >= 24) return undefined
      return feed(trimming(seam.whitespace), seam.held)?.[1]
    }
  }
}
