import * as English from "./english.ts"
import { stem } from "./stem.ts"
import { isAscii, type Token, tokenize, unify, word } from "./tokens.ts"
import { list, sieve } from "./vocabulary.ts"

/**
 * What the canonical key and the guard know about a text: `tokens` without politeness and with a unified opening when it is English,
 * `text` in its Unicode form.
 */
export interface Reading {
  readonly language: "english" | "other"
  readonly text: string
  readonly tokens: ReadonlyArray<Token>
}

export const read = (raw: string): Reading => {
  const ascii = isAscii(raw)
  const text = ascii ? raw.trim() : unify(raw)
  // Politeness goes first, so that it has no say in what the language is.
  const said = polite(tokenize(text))
  if (!isEnglish(said, ascii || isAscii(text))) return { language: "other", text, tokens: [] }
  const tokens = numbers(closing(opening(fillers(said))))
  // Nothing but a greeting is a greeting.
  return tokens.length === 0 ? { language: "other", text, tokens } : { language: "english", text, tokens }
}

const isEnglish = (tokens: ReadonlyArray<Token>, ascii: boolean): boolean => {
  let words = 0
  let known = instructs(tokens[0]) ? 1 : 0
  let strange = 0
  for (const { key, kind, lists, name } of tokens) {
    if (kind !== "word") continue
    // A hundred words tell as much as a thousand.
    if (++words > 100) break
    if ((lists & list.english) !== 0) {
      known++
      continue
    }
    if (!name && (lists & list.foreign) !== 0) strange++
    // Another script, or letters that English only borrows.
    if (!ascii && !/^[\x20-\x7eé]+$/.test(key)) strange++
  }
  if (known === 0 || known < 2 * strange) return false
  return known * 6 >= words || (strange === 0 && (known >= 2 || isQuestionWord(tokens[0])))
}

const is = (tokens: ReadonlyArray<Token>, at: number, words: string): boolean => {
  const key = tokens[at]?.key
  if (key === undefined) return false
  let either = alternatives.get(words)
  if (either === undefined) alternatives.set(words, (either = new Set(words.split("|"))))
  return either.has(key)
}

// As many as are written in the rules.
const alternatives = new Map<string, ReadonlySet<string>>()

/** Whether the words of a pattern (each with its alternatives) start at a place. */
export const matches = (tokens: ReadonlyArray<Token>, at: number, pattern: ReadonlyArray<string>): boolean =>
  pattern.every((words, offset) => is(tokens, at + offset, words))

const polite = (tokens: ReadonlyArray<Token>): ReadonlyArray<Token> => {
  let from = 0
  let to = tokens.length
  let wanted = false
  const ends = (at: number) => tokens[at]?.comma === true || tokens[at + 1]?.kind === "break"
  const skip = (at: number) => {
    from = at + 1
    while (tokens[from]?.kind === "break") from++
  }

  if (English.greetings.has(tokens[0]?.key ?? "")) {
    if (ends(0)) skip(0)
    else if (is(tokens, 1, "there|everyone|all") && ends(1)) skip(1)
  } else if (matches(tokens, 0, ["good", "morning|afternoon|evening|day"]) && ends(1)) skip(1)
  // "Hello! in Japanese" is about the greeting.
  if (from > 0 && !speaks(tokens[from]) && !opens(tokens.slice(from, from + 8))) from = 0

  // Each of these can only shorten, so the loop ends.
  for (;;) {
    const start = from
    while (is(tokens, from, "please|kindly") && tokens[from + 1]?.kind === "word") from++
    if (is(tokens, from, "just") && instructs(tokens[from + 1])) from++
    for (const pattern of asking) {
      if (matches(tokens, from, pattern)) {
        let next = from + pattern.length
        while (is(tokens, next, "please|kindly")) next++
        if (English.questionWords.has(tokens[next]?.key ?? "")) {
          from = next
          wanted = true
        }
      }
    }
    for (const pattern of telling) {
      if (!matches(tokens, from, pattern)) continue
      let next = from + pattern.length
      const begged = is(tokens, next, "please|kindly")
      while (is(tokens, next, "please|kindly|maybe|perhaps")) next++
      const verb = tokens[next]?.key ?? ""
      const ours =
        begged ||
        is(tokens, next + 1, "me|this|these|us|my") ||
        tokens.slice(next + 1, next + 6).some(({ key }) => English.artifacts.has(key))
      if (English.imperatives.has(verb) || (ours && English.weakImperatives.has(verb))) from = next
    }
    if (from === start) break
  }

  for (;;) {
    const last = tokens[to - 1]?.kind === "break" ? to - 1 : to
    const length = farewells.find(
      (words) => last - words.length > from && matches(tokens, last - words.length, words)
    )?.length
    // "How do you say no, thank you" is about the phrase.
    if (length === undefined || tokens.some(({ lists }) => (lists & list.mention) !== 0)) break
    const before = tokens[last - length - 1]
    const instructed = instructs(tokens[from])
    const begged = instructed && length === 1 && is(tokens, last - 1, "please") && last - from > 2
    if (before?.kind !== "break" && !begged && !(before?.comma === true && instructed)) break
    to = last - length
  }
  if (wanted) return [word("explain"), ...tokens.slice(from, to)]
  return from === 0 && to === tokens.length ? tokens : tokens.slice(from, to)
}

const instructs = (token: Token | undefined): boolean =>
  token !== undefined && (English.imperatives.has(token.key) || English.weakImperatives.has(token.key))

const speaks = (token: Token | undefined): boolean =>
  token !== undefined &&
  (instructs(token) ||
    English.questionWords.has(token.key) ||
    English.auxiliaries.has(token.key) ||
    "i my we please this the there".split(" ").includes(token.key))

const asking = [
  ["i", "would", "like", "to", "know"],
  ["i", "want|need", "to", "know"],
  ["i", "was|am", "wondering"],
  ["do", "you", "know"],
  ["can|could|would|will", "you", "tell", "me"],
  ["can|could|would|will", "you", "please|kindly", "tell", "me"],
  ["please", "tell", "me"]
]

const telling = [
  ["can|could|would|will", "you"],
  ["i", "would", "like", "you", "to"],
  ["i", "want|need", "you", "to"]
]

const farewells = [
  ["thank", "you", "so|very", "much"],
  ["thank", "you", "in", "advance"],
  ["thanks", "in", "advance"],
  ["thanks", "a", "lot"],
  ["thanks", "so", "much"],
  ["many", "thanks"],
  ["thank", "you"],
  ["thanks"],
  ["cheers"],
  ["please"]
]

const fillers = (tokens: ReadonlyArray<Token>): ReadonlyArray<Token> => {
  if (!tokens.some(({ lists }) => (lists & list.filler) !== 0)) return tokens
  const mentioning = tokens.some(({ lists }) => (lists & list.mention) !== 0)
  return tokens.filter(({ key }, at) => {
    if (key === "exactly") return !(at === 1 && isQuestionWord(tokens[0]))
    if (key === "actually" || key === "basically") return false
    const begs = key === "please" && at > 0 && tokens[at - 1]?.kind === "break"
    // What is to be translated may well beg for something.
    return !(begs && instructs(tokens[at + 1]) && instructs(tokens[0]) && !mentioning)
  })
}

const isQuestionWord = (token: Token | undefined): boolean =>
  token !== undefined && English.questionWords.has(token.key)

const opening = (tokens: ReadonlyArray<Token>): ReadonlyArray<Token> => {
  const asked = opened(tokens)
  if (!matches(asked, 0, ["what", "does"])) return asked
  const end = asked.findIndex(({ kind }) => kind === "break")
  const last = (end === -1 ? asked.length : end) - 1
  return last > 2 && is(asked, last, "mean")
    ? [..."what is the meaning of".split(" ").map(word), ...asked.slice(2, last), ...asked.slice(last + 1)]
    : asked
}

/** One form for the ways to open the same question. An opening may be wrapped in another, and each step makes the text shorter. */
export const opened = (tokens: ReadonlyArray<Token>): ReadonlyArray<Token> => {
  let now = tokens
  for (let round = 0; round < 4; round++) {
    const before = now
    const rule = openings.get(now[0]?.key ?? "")?.find(([pattern]) => matches(now, 0, pattern))
    if (rule !== undefined) now = [...rule[1], ...now.slice(rule[0].length)]
    // "How do I look" does not ask for a way to look.
    else if (hows.some((pattern) => matches(now, 0, pattern)) && !statives.has(now[3]?.key ?? "")) {
      now = [word("how"), word("to"), ...now.slice(3)]
    } else if (is(now, 0, "explain|describe|tell|show|teach")) {
      const at = is(now, 1, "me") ? 2 : matches(now, 1, ["to", "me"]) ? 3 : 1
      if (isQuestionWord(now[at])) now = now.slice(at)
    }
    if (now === before) break
  }
  now = direct(now)
  if (matches(now, 0, ["where", "do", "i", places])) now = [word("where"), word("can"), ...now.slice(2)]
  // Whether "how tides work" or "how do tides work", it asks the same. "What cats eat" may ask which cats do.
  if (is(now, 0, "how|why|where|when") && is(now, 1, "do|does")) now = [...now.slice(0, 1), ...now.slice(2)]
  if (is(now, 0, "give|write|tell|show|send|make|create|draft") && is(now, 1, "me") && determined(now[2])) {
    now = [...now.slice(0, 1), ...now.slice(2)]
  }
  if (matches(now, 0, ["how", "many"])) {
    const there = now.findIndex(({ key }, at) => key === "there" && is(now, at - 1, "is|are|was|were"))
    if (there > 0 && there + 1 < now.length) now = now.filter((_, at) => at !== there)
  }
  return now
}

// "What a mutex is": what is a mutex. "How a lock works": how a lock work, for the ending belongs to "does".
const direct = (tokens: ReadonlyArray<Token>): ReadonlyArray<Token> => {
  if (!is(tokens, 0, "what|who|where|how|why")) return tokens
  const stop = tokens.findIndex(({ kind }) => kind === "break")
  const whole = stop === -1 ? tokens.length : stop
  const placed = is(tokens, whole - 2, "in") && English.languages.has((tokens[whole - 1]?.key ?? "").toLowerCase())
  const end = placed ? whole - 2 : whole
  const last = tokens[end - 1]
  const behind = matches(tokens, 0, ["how", sizes]) ? 2 : 1
  if (last === undefined || end - behind < 2) return tokens
  if (is(tokens, 0, "how|why") && last.key === "works") {
    return [...tokens.slice(0, end - 1), { ...last, key: "work" }, ...tokens.slice(end)]
  }
  const helper =
    last.key === "do" || last.key === "does"
      ? is(tokens, 0, "what")
      : copulas.split("|").includes(last.key) && (behind === 2 || !is(tokens, 0, "how|why"))
  if (!helper || tokens.slice(0, end - 1).some(({ key }) => English.auxiliaries.has(key) || key === "to")) return tokens
  const verb = last.key === "do" || last.key === "does" ? [word("do")] : []
  return [...tokens.slice(0, behind), last, ...tokens.slice(behind, end - 1), ...verb, ...tokens.slice(end)]
}

const copulas = "is|are|was|were"
const sizes = "old|tall|big|far|long|high|deep|heavy|wide|large|fast|hot|cold"
const places = "find|get|buy|download|change|update|watch|check|report|edit"

const determined = (token: Token | undefined): boolean =>
  token !== undefined &&
  (token.kind === "number" || /^(?:an?|the|some|all)$/.test(token.key) || English.counting.has(token.key))

const hows = [
  ["how", "do|can", "i"],
  ["how", "does|can", "one"]
]
const statives = new Set("look feel seem sound appear smell compare rank rate score differ matter".split(" "))

const openings: ReadonlyMap<
  string,
  ReadonlyArray<readonly [ReadonlyArray<string>, ReadonlyArray<Token>]>
> = Map.groupBy(
  [
    ["what is|are the|a|an|one|some way|ways|method|methods to", "how to"],
    ["what is|are way|ways|method|methods to", "how to"],
    ["what are the|some steps to", "how to"],
    ["what are steps to", "how to"],
    ["what do i need|have to do to", "how to"],
    ["what should|must|can i do to", "how to"],
    ["is it possible for me to", "can i"],
    ["is it possible to", "can i"],
    ["am i able to", "can i"],
    ["what is the reason why|that", "why"],
    ["what is reason why|that", "why"],
    ["what is the reason", "why"],
    ["what is reason", "why"],
    ["how is it to", "what is it like to"],
    ["how does it feel to", "what does it feel like to"],
    ["what are some of the", "what are the"],
    ["do you offer|provide a|an|any", "is there a"],
    ["do you offer|provide", "is there"],
    ["define", "what is the definition of"]
  ].map(([pattern = "", replacement = ""]): readonly [ReadonlyArray<string>, ReadonlyArray<Token>] => [
    pattern.split(" "),
    replacement.split(" ").map(word)
  ]),
  ([pattern]) => pattern[0] ?? ""
)

const closing = (tokens: ReadonlyArray<Token>): ReadonlyArray<Token> => {
  const last = tokens.at(-1)
  // Code in the middle of a sentence takes its end along: "what is 17 * 23?"
  if (last?.kind === "verbatim" && tokens.at(-2)?.key !== ":" && /^[^\n]*[\p{L}\p{N})\]][.?]$/u.test(last.key)) {
    return [...tokens.slice(0, -1), { ...last, key: last.key.slice(0, -1) }]
  }
  if (last?.kind !== "break") return tokens
  // "You like it?" is not "You like it.", but nobody needs the mark to see that "What is it" is a question.
  const told = last.key === "?" && !opens(tokens) && !instructs(tokens[0])
  return told ? tokens : tokens.slice(0, -1)
}

// "In Python, how do I" opens a question, too.
const opens = (tokens: ReadonlyArray<Token>): boolean => {
  const comma = tokens.findIndex(({ comma }) => comma)
  return isQuestion(tokens) || (comma > 0 && comma < 5 && isQuestion(tokens.slice(comma + 1, comma + 2)))
}

/** Whether a text opens like a question. */
export const isQuestion = (tokens: ReadonlyArray<Token>): boolean => {
  const first = tokens[0]?.key ?? ""
  return English.questionWords.has(first) || English.auxiliaries.has(first)
}

const numbers = (tokens: ReadonlyArray<Token>): ReadonlyArray<Token> => {
  const out = tokens.slice()
  let end = 0
  for (let at = 0; at < tokens.length; at++) {
    const token = tokens[at]
    if (token === undefined) continue
    if (token.kind !== "number" && (token.lists & list.counting) === 0) {
      if (end !== at) out[end] = token
      end++
      continue
    }
    let value = token.kind === "number" ? (/^\d{1,9}$/.test(token.key) ? Number(token.key) : undefined) : undefined
    if (token.kind === "word") {
      value = English.tens.get(token.key)
      const unit = English.numberWords.get(tokens[at + 1]?.key ?? "")
      if (value !== undefined && unit !== undefined && unit > 0 && unit < 10 && !token.comma) {
        value += unit
        at++
      } else value ??= English.numberWords.get(token.key)
    }
    const scale = English.scales.get(tokens[at + 1]?.key ?? "")
    if (value !== undefined && scale !== undefined && value > 0 && tokens[at]?.comma === false) {
      value *= scale
      at++
    } else if (token.kind === "number") value = undefined
    out[end++] =
      value === undefined
        ? token
        : { kind: "number", key: String(value), name: false, comma: tokens[at]?.comma === true, lists: 0 }
  }
  out.length = end
  return out
}

/**
 * The words that count, each without its plural where singular and plural ask the same. Who asks for the best, the first or the most, or
 * tells us to write, means the number he says.
 */
export const stems = (tokens: ReadonlyArray<Token>): ReadonlyArray<Token> =>
  isQuestion(tokens) &&
  !tokens.some(({ key }) => (mayExcel(key) && English.superlatives.has(key)) || (key.length > 4 && key.endsWith("est")))
    ? tokens.map((token) => {
        if (token.kind !== "word" || token.name) return token
        const key = stem(token.key)
        return key === token.key ? token : { ...token, key }
      })
    : tokens

const mayExcel = sieve(English.superlatives)

/** Writes tokens so that different lists never look the same. */
export const write = (tokens: ReadonlyArray<Token>): string => {
  let out = ""
  for (const { key, kind } of tokens) {
    out += kind === "verbatim" ? ` "${key.length}:` : " "
    out += key
  }
  return out
}
