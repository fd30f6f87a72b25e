import { acronyms, cased, english, spellings } from "./english.ts"

/**
 * A piece of a prompt.
 *
 * `verbatim` is what must not be touched: quoted text, code, what follows a colon or a line break, addresses, paths, flags. `comma` says
 * that a comma, or what stands for one, comes after the token; `name` that it is capitalised within a sentence; `article` is what stood
 * before it where articles are not words of their own.
 */
export interface Token {
  readonly kind: "word" | "number" | "symbol" | "verbatim" | "break"
  readonly key: string
  readonly name: boolean
  readonly comma: boolean
  readonly article?: "a" | "the" | undefined
}

export const word = (key: string): Token => ({ kind: "word", key, name: false, comma: false })

/**
 * One form for what Unicode writes in several ways. Superscripts and fractions are taken apart first, because compatibility forms make
 * "x2" of "x²" and "31/2" of "3½".
 */
export const unify = (text: string): string => {
  if (isAscii(text)) return text.trim()
  return text
    .replaceAll(/[⁰¹²³⁴-⁹]+/g, "^$&")
    .replaceAll(/[₀-₉]+/g, "_$&")
    .replaceAll(/[¼-¾⅐-⅞]/g, " $&")
    .normalize("NFKC")
    .replaceAll(/[‘’‚‛´ʼ]/g, "'")
    .replaceAll(/[“”„‟«»]/g, '"')
    .replaceAll(/[‐‑‒–−]/g, "-")
    .replaceAll(/[—―]/g, " - ")
    .replaceAll(/[\u00ad\u200b\u200e\u200f\ufeff]/g, "")
    .trim()
}

// eslint-disable-next-line no-control-regex
export const isAscii = (text: string): boolean => /^[\x00-\x7f]*$/.test(text)

const isSpace = (code: number): boolean => code === 32 || (code >= 9 && code <= 13) || code === 160 || code === 0x2028
// , . ? ! ;
const isMark = (code: number): boolean => code === 44 || code === 46 || code === 63 || code === 33 || code === 59
const isDigit = (code: number): boolean => code >= 48 && code <= 57
const isLetter = (code: number): boolean =>
  (code >= 97 && code <= 122) || (code >= 65 && code <= 90) || (code > 127 && letter.test(String.fromCharCode(code)))
// Halves of a surrogate pair count as letters: they are kept, and kept together.
const letter = /[\p{L}\p{M}\p{Nl}\p{Cs}]/u
const isWordy = (code: number): boolean => isLetter(code) || isDigit(code)

const code = /[{}<>=|\\^*[\]~]|[A-Za-z0-9]\((?!s\))/
const exact = /:\/\/|@|_|^\.{0,2}\/|^-{1,2}[A-Za-z]|^\$[A-Za-z]|\/.*\//
const abbreviations = new Set("dr mr mrs ms prof st vs jr sr inc ltd approx no fig etc".split(" "))

/**
 * Says of most words, at a fraction of the cost of looking them up, that they are not in a list: by their length, first and last letter.
 */
export const sieve = (words: Iterable<string>): ((word: string) => boolean) => {
  const marks = new Uint8Array(32 * 32 * 16)
  const place = (word: string) =>
    ((word.charCodeAt(0) & 31) << 9) | ((word.charCodeAt(word.length - 1) & 31) << 4) | (word.length & 15)
  for (const word of words) marks[place(word)] = 1
  return (word) => marks[place(word)] === 1
}

/** Reads a text in one pass. The text is one that {@link unify} returned. */
export const tokenize = (text: string): ReadonlyArray<Token> => {
  const tokens: Array<Token> = []
  const end = text.length
  // Somebody who shouts says nothing by it.
  const shouting = /\p{Lu}/u.test(text) && !/\p{Ll}/u.test(text)
  let sentence = 0
  let singles = true

  const push = (kind: Token["kind"], key: string, name = false) => {
    tokens.push({ kind, key, name, comma: false })
  }
  const pause = () => {
    const last = tokens.at(-1)
    if (last !== undefined && !last.comma) tokens[tokens.length - 1] = { ...last, comma: true }
  }
  const stop = (key: "." | "?") => {
    const last = tokens.at(-1)
    if (last === undefined) return
    if (last.kind !== "break") push("break", key)
    else if (key === "?") tokens[tokens.length - 1] = { ...last, key }
    sentence = tokens.length
  }
  const rest = (from: number): number => {
    push("verbatim", text.slice(from))
    return end
  }

  const say = (raw: string) => {
    const lower = raw.toLowerCase()
    const capital = lower !== raw && raw[0] !== lower[0]
    if (!shouting && isCaseful(raw, lower)) {
      push("word", raw, true)
      return
    }
    if (isDigit(raw.charCodeAt(raw[0] === "-" ? 1 : 0)) && /^-?\d[\d.,:/-]*$/.test(raw)) {
      push("number", /^-?\d{1,3}(?:,\d{3})+(?:\.\d+)?$/.test(raw) ? raw.replaceAll(",", "") : raw)
      return
    }
    if (capital && !shouting) {
      if (raw.includes(".") && dotted.test(raw)) {
        push("word", raw.replaceAll(".", "").toUpperCase(), true)
        return
      }
      const first = tokens.length === sentence
      const loud = raw === raw.toUpperCase()
      if (loud && lower !== "i" && !(first && raw.length === 1) && acronyms.has(lower)) {
        push("word", raw, true)
        return
      }
      if (!first && cased.has(lower)) {
        push("word", `${raw[0] ?? ""}${lower.slice(1)}`, true)
        return
      }
      if (!lower.includes("'")) {
        push("word", spellings.get(lower) ?? lower, !first && !english.has(lower))
        return
      }
    }
    let name = capital && !shouting && tokens.length > sentence
    for (const part of expand(lower)) {
      push("word", spellings.get(part) ?? part, name && !english.has(part))
      name = false
    }
  }

  // A chunk is what stands between blanks.
  const chunk = (from: number, to: number): number => {
    let i = from
    while (i < to) {
      const c = text.charCodeAt(i)
      const next = i + 1 < to ? text.charCodeAt(i + 1) : 0
      const starts =
        isWordy(c) ||
        ((c === 46 || (c === 45 && i === from)) && isDigit(next)) ||
        (c === 46 && i === from && isLetter(next))
      if (starts) {
        let j = i + 1
        while (j < to) {
          const d = text.charCodeAt(j)
          if (isWordy(d)) j++
          else {
            const before = text.charCodeAt(j - 1)
            const after = j + 1 < to ? text.charCodeAt(j + 1) : 0
            const joins =
              d === 39
                ? isLetter(after) && isWordy(before)
                : d === 46
                  ? isWordy(after)
                  : (d === 44 || d === 58 || d === 47 || d === 45) && isDigit(before) && isDigit(after)
            if (!joins) break
            j += 2
          }
        }
        // C++, C#, F#
        while (j < to && isLetter(text.charCodeAt(i)) && (text[j] === "+" || text[j] === "#")) j++
        say(text.slice(i, j))
        i = j
        continue
      }
      i++
      if (c === 44 || c === 59) pause()
      else if (c === 46 || c === 33 || c === 63) {
        const last = tokens.at(-1)
        const short =
          c === 46 && last?.kind === "word" && i < end && (last.key.length === 1 || abbreviations.has(last.key))
        if (!short) stop(c === 63 ? "?" : ".")
      } else if (c === 58) {
        const opening = tokens[sentence]?.key
        if (i < to) push("symbol", ":")
        else if (opening === "which" && / or /i.test(text.slice(i, i + 200))) pause()
        else {
          push("symbol", ":")
          const payload = text.slice(i).trim()
          if (payload !== "") push("verbatim", payload)
          return end
        }
      } else if (c === 45) {
        // What may be a sum is not a dash, and "x-y" no compound.
        const last = tokens.at(-1)
        const alone = i - 1 === from && next === 0
        const term = last?.kind === "number" || last?.key.length === 1
        if (term && (alone || (i + 1 === to && isWordy(next)))) push("symbol", "-")
        else if (i - 1 === from) pause()
      } else push("symbol", spellings.get(String.fromCharCode(c)) ?? String.fromCharCode(c))
    }
    return to
  }

  let i = 0
  while (i < end) {
    const c = text.charCodeAt(i)
    if (isSpace(c)) {
      if (c === 10 && tokens.length > 0) {
        i = rest(i)
        break
      }
      i++
    } else if (c === 34) {
      const close = text.indexOf('"', i + 1)
      if (i > 0 && isDigit(text.charCodeAt(i - 1))) {
        push("symbol", '"')
        i++
      } else if (close === -1) i = rest(i)
      else {
        push("verbatim", text.slice(i, close + 1))
        i = close + 1
      }
    } else if (c === 96) {
      let j = i
      while (text.charCodeAt(j) === 96) j++
      const close = text.indexOf("`".repeat(Math.min(j - i, 3)), j)
      if (close === -1) i = rest(i)
      else {
        const to = close + Math.min(j - i, 3)
        push("verbatim", text.slice(i, to))
        i = to
      }
    } else {
      if (c === 39 && singles && (i === 0 || !isWordy(text.charCodeAt(i - 1)))) {
        let close = text.indexOf("'", i + 2)
        while (close !== -1 && (isWordy(text.charCodeAt(close + 1)) || isSpace(text.charCodeAt(close - 1)))) {
          close = text.indexOf("'", close + 1)
        }
        if (close !== -1) {
          push("verbatim", text.slice(i, close + 1))
          i = close + 1
          continue
        }
        singles = false
      }
      let j = i
      // The first place that is no small letter, and whether all of them are letters.
      let odd = -1
      let letters = true
      while (j < end) {
        const d = text.charCodeAt(j)
        if (d < 97 || d > 122) {
          if (isSpace(d) || d === 34 || d === 96) break
          if (odd === -1) odd = j
          if (d < 65 || d > 90) letters = false
        }
        j++
      }
      // By far the most common cases: a word in small letters, with a mark or without.
      if (odd === -1 || (odd === j - 1 && odd > i && isMark(text.charCodeAt(odd)))) {
        const part = text.slice(i, odd === -1 ? j : odd)
        const forms = mayBeWritten(part) ? written.get(part) : undefined
        if (forms === undefined) push("word", part)
        else for (const form of forms) push("word", form)
        i = odd === -1 ? j : chunk(odd, j)
        continue
      }
      const part = text.slice(i, j)
      if (letters) {
        say(part)
        i = j
      } else if (code.test(part)) i = rest(i)
      else if (exact.test(part)) {
        let close = j
        while (close > i + 1 && ".,;:!?)".includes(text[close - 1] ?? " ")) close--
        push("verbatim", text.slice(i, close))
        i = chunk(close, j)
      } else i = chunk(i, j)
    }
  }
  return tokens
}

// "fooBar" and "foobar", "Mbps" and "MBps", "5M" and "5m" are different things; "JavaScript" and "iPhone" are often written carelessly.
const isCaseful = (raw: string, lower: string): boolean => {
  // With only the first letter large, it is the name of somebody, or a unit.
  if (raw.slice(1) === lower.slice(1)) return raw !== lower && raw.length < 5 && unit.test(raw)
  return (caseful.test(raw) || unit.test(raw)) && !brands.has(lower)
}
const unit = /^[kmgt]i?b(?:ps|it|its)?$/i
const caseful = /^\d+(?:\.\d+)?\p{L}*\p{Lu}|\p{Ll}\p{Lu}|\p{Lu}{2,}\p{Ll}/u
const brands = new Set(
  `javascript typescript coffeescript github gitlab youtube iphone iphones ipad ipads macbook macos imac ios icloud airpods paypal
  postgresql mysql sqlite mongodb graphql nodejs wordpress linkedin whatsapp tiktok latex ebay openai chatgpt powerpoint vscode
  restful oauth phd mba 3d 2d usb urls apis pdfs nfts ceos dvds`.split(/\s+/)
)
const dotted = /^(?:\p{L}\.)+\p{L}$/u

const expand = (lower: string): ReadonlyArray<string> => {
  const known = contractions.get(lower)
  if (known !== undefined) return known
  const at = lower.lastIndexOf("'")
  if (at === -1) return [lower]
  const head = lower.slice(0, at)
  if (lower.endsWith("n't")) return [lower.slice(0, -3), "not"]
  const tail = endings.get(lower.slice(at + 1))
  if (tail !== undefined) return [head, tail]
  if (!lower.endsWith("'s")) return [lower]
  return is.has(head) ? [head, "is"] : [head, "'s"]
}

const endings: ReadonlyMap<string, string> = new Map([
  ["re", "are"],
  ["ve", "have"],
  ["ll", "will"],
  ["d", "would"],
  ["m", "am"]
])
const is = new Set("what who where how when why that it there here he she".split(" "))
const contractions: ReadonlyMap<string, ReadonlyArray<string>> = new Map([
  ["can't", ["can", "not"]],
  ["cant", ["can", "not"]],
  ["cannot", ["can", "not"]],
  ["won't", ["will", "not"]],
  ["shan't", ["shall", "not"]],
  ["let's", ["let", "us"]],
  ["dont", ["do", "not"]],
  ["doesnt", ["does", "not"]],
  ["didnt", ["did", "not"]],
  ["isnt", ["is", "not"]],
  ["arent", ["are", "not"]],
  ["whats", ["what", "is"]],
  ["hows", ["how", "is"]],
  ["im", ["i", "am"]],
  ["pls", ["please"]],
  ["plz", ["please"]]
])

// What becomes of a word in small letters, where it is not itself.
const written: ReadonlyMap<string, ReadonlyArray<string>> = new Map([
  ...Array.from(spellings, ([from, to]): [string, ReadonlyArray<string>] => [from, [to]]),
  ...contractions
])
const mayBeWritten = sieve(written.keys())
