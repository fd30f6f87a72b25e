import { acronyms, spellings } from "./english.ts"
import { hashed, lexicon, list, listed, listsOf } from "./vocabulary.ts"

/**
 * A piece of a prompt.
 *
 * `verbatim` is what must not be touched: quoted text, code, what follows a colon or a line break, addresses, paths, flags. `comma` says
 * that a comma, or what stands for one, comes after the token; `name` that it is capitalised within a sentence; `lists` are those that hold
 * the word as it was written; `article` is what stood before it where articles are not words of their own.
 */
export interface Token {
  readonly kind: "word" | "number" | "symbol" | "verbatim" | "break"
  readonly key: string
  readonly name: boolean
  readonly comma: boolean
  readonly lists: number
  readonly article?: "a" | "the" | undefined
}

export const word = (key: string): Token => ({ kind: "word", key, name: false, comma: false, lists: listsOf(key) })

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
// What ends a word wherever it stands: blanks and the quotes that open a text of their own.
const ends = (code: number): boolean => code === 34 || code === 96 || isSpace(code)
// , . ? ! ;
const isMark = (code: number): boolean => code === 44 || code === 46 || code === 63 || code === 33 || code === 59
const isDigit = (code: number): boolean => code >= 48 && code <= 57
const isLetter = (code: number): boolean =>
  (code >= 97 && code <= 122) || (code >= 65 && code <= 90) || (code > 127 && letter.test(String.fromCharCode(code)))
// Halves of a surrogate pair count as letters: they are kept, and kept together.
const letter = /[\p{L}\p{M}\p{Nl}\p{Cs}]/u
const isWordy = (code: number): boolean => isLetter(code) || isDigit(code)

// Without one of these a piece of text is neither code nor an address. A dash or a dollar sign counts only where it begins.
const odd = new Uint8Array(128)
for (const mark of "{}<>=|\\^*[]~(:@_/") odd[mark.charCodeAt(0)] = 1
const mayBeExact = (text: string, from: number, to: number): boolean => {
  const first = text.charCodeAt(from)
  if (first === 45 || first === 36) return true
  for (let i = from; i < to; i++) if (odd[text.charCodeAt(i)] === 1) return true
  return false
}
const code = /[{}<>=|\\^*[\]~]|[A-Za-z0-9]\((?!s\))/
const exact = /:\/\/|@|_|^\.{0,2}\/|^-{1,2}[A-Za-z]|^\$[A-Za-z]|\/.*\//
const abbreviations = new Set("dr mr mrs ms prof st vs jr sr inc ltd approx no fig etc".split(" "))

/** Reads a text in one pass. The text is one that {@link unify} returned. */
export const tokenize = (given: string): ReadonlyArray<Token> => {
  const tokens: Array<Token> = []
  const end = given.length
  // A copy in one piece: strings that were put together or cut out are read at half the speed. The blank ends the last word.
  const text = [given, " "].join("")
  // Somebody who shouts says nothing by it.
  const shouting = !/\p{Ll}/u.test(text) && /\p{Lu}/u.test(text)
  let sentence = 0
  let singles = true

  const push = (kind: Token["kind"], key: string, name = false) => {
    tokens.push({ kind, key, name, comma: false, lists: kind === "word" ? listsOf(key) : 0 })
  }
  const pause = () => {
    const last = tokens[tokens.length - 1]
    if (last === undefined || last.comma) return
    const { key, kind, lists, name } = last
    tokens[tokens.length - 1] = { kind, key, name, comma: true, lists }
  }
  const stop = (key: "." | "?") => {
    const last = tokens.at(-1)
    if (last === undefined) return
    if (last.kind !== "break") push("break", key)
    else if (key === "?") tokens[tokens.length - 1] = { ...last, key }
    sentence = tokens.length
  }
  const mark = (code: number, next: number) => {
    if (code === 44 || code === 59) return pause()
    const last = tokens[tokens.length - 1]
    const short =
      code === 46 && last?.kind === "word" && next < end && (last.key.length === 1 || abbreviations.has(last.key))
    if (!short) stop(code === 63 ? "?" : ".")
  }
  const rest = (from: number): number => {
    push("verbatim", text.slice(from, end))
    return end
  }

  const say = (raw: string) => {
    const lower = raw.toLowerCase()
    const capital = lower !== raw && raw[0] !== lower[0]
    if (lower !== raw && !shouting && isCaseful(raw, lower)) {
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
      if (!first && (listsOf(lower) & list.cased) !== 0) {
        push("word", `${raw[0] ?? ""}${lower.slice(1)}`, true)
        return
      }
      if (!lower.includes("'")) {
        push("word", spellings.get(lower) ?? lower, !first && (listsOf(lower) & list.english) === 0)
        return
      }
    }
    let name = capital && !shouting && tokens.length > sentence
    for (const part of expand(lower)) {
      push("word", spellings.get(part) ?? part, name && (listsOf(part) & list.english) === 0)
      name = false
    }
  }

  // A word of letters that are small but for the first, by far the most common case.
  const plain = (from: number, to: number, hash: number) => {
    const known = lookUp(text, from, to, hash)
    if (text.charCodeAt(from) > 96) {
      if (known === undefined) tokens.push(unlisted(text.slice(from, to), false))
      else for (const token of known.tokens) tokens.push(token)
      return
    }
    const second = text.charCodeAt(from + 1)
    const first = tokens.length === sentence
    const mayBeUnit = to - from < 5 && (second === 98 || second === 105)
    if (to - from === 1 || mayBeUnit || (!first && known !== undefined && known.tokens.length > 1))
      say(text.slice(from, to))
    else if (known === undefined) tokens.push(unlisted(text.slice(from, to).toLowerCase(), !first))
    else if (!first && (known.lists & list.cased) !== 0) push("word", text.slice(from, to), true)
    else
      for (const token of known.tokens)
        tokens.push(first || (token.lists & list.english) !== 0 ? token : { ...token, name: true })
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
      if (isMark(c)) mark(c, i)
      else if (c === 58) {
        const opening = tokens[sentence]?.key
        if (i < to) push("symbol", ":")
        else if (opening === "which" && / or /i.test(text.slice(i, i + 200))) pause()
        else {
          push("symbol", ":")
          const payload = text.slice(i, end).trim()
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
      let hash = 0
      let d = c < 97 && c > 64 ? c | 32 : c
      while (d >= 97 && d <= 122) {
        hash = hashed(hash, d)
        d = text.charCodeAt(++j)
      }
      if (j > i && ends(d)) {
        plain(i, j, hash)
        i = d === 32 ? j + 1 : j
        continue
      }
      if (j > i && isMark(d) && ends(text.charCodeAt(j + 1))) {
        plain(i, j, hash)
        i = j + 1
        mark(d, i)
        continue
      }
      while (j < end && !ends(text.charCodeAt(j))) j++
      if (!mayBeExact(text, i, j)) {
        i = chunk(i, j)
        continue
      }
      const part = text.slice(i, j)
      if (code.test(part)) i = rest(i)
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

const unlisted = (key: string, name: boolean): Token => ({ kind: "word", key, name, comma: false, lists: 0 })

// What becomes of a word in small letters. Texts share these tokens.
const lookUp = lexicon(
  new Map(
    [
      ...Array.from(listed, (key): [string, ReadonlyArray<string>] => [key, [spellings.get(key) ?? key]]),
      ...Array.from(spellings, ([from, to]): [string, ReadonlyArray<string>] => [from, [to]]),
      ...contractions
    ].map(([from, to]) => [from, { lists: listsOf(from), tokens: to.map(word) }])
  )
)
