import * as English from "./english.ts"
import { isQuestion, matches, stems } from "./reading.ts"
import { type Token, word } from "./tokens.ts"

/**
 * What a text asks, in the one order in which it is compared. Two texts that ask the same in ways the guard can explain have the same
 * skeleton, so each step rewrites one text without looking at the other.
 */
export const skeleton = (tokens: ReadonlyArray<Token>): ReadonlyArray<Token> =>
  stems(shape(opened(articles(alike(fronted(tokens))))))

type Tokens = ReadonlyArray<Token>

const key = (tokens: Tokens, at: number): string => tokens[at]?.key ?? ""

const words = (text: string): Tokens => text.split(" ").map(word)

// "In Python, how do I …": a condition of a few words, put first.
const fronted = (tokens: Tokens): Tokens => {
  if (!fronts.has(key(tokens, 0))) return tokens
  const comma = tokens.findIndex(({ comma }) => comma)
  if (comma < 1 || comma > 4) return tokens
  const marked = tokens.at(-1)?.kind === "break"
  const rest = tokens.slice(comma + 1, marked ? -1 : undefined)
  const opens = isQuestion(rest) || English.imperatives.has(key(rest, 0))
  if (!opens || rest.some(({ kind }) => kind === "break" || kind === "verbatim")) return tokens
  const how = hows.some((pattern) => matches(rest, 0, pattern)) ? [...words("how to"), ...rest.slice(3)] : rest
  return [...how, ...tokens.slice(0, comma + 1)]
}

const fronts = new Set("in on for at with using".split(" "))
const hows = [["how", "do|can", "i"]]

const alike = (tokens: Tokens): Tokens => {
  const out: Array<Token> = []
  for (let at = 0; at < tokens.length; at++) {
    const token = tokens[at]
    if (token === undefined) continue
    const { key: here, kind } = token
    if (kind !== "word") out.push(token)
    else if (here === "science" && key(tokens, at + 1) === "fiction") {
      out.push(word("scifi"))
      at++
    } else if (here === "sci" && key(tokens, at + 1) === "fi") {
      out.push(word("scifi"))
      at++
    } else if (here === "e" && key(tokens, at + 1) === "mail") {
      out.push(word("email"))
      at++
    } else if (here === "earn" && key(tokens, at + 1) === "money") out.push(word("make"))
    // What the instruction is about comes right behind either of them.
    else if (here === "the" && key(tokens, at + 1) === "following" && !articleEnds(tokens, at + 2)) {
      out.push(word("this"))
      at++
    } else if (
      (here === "in" || here === "with" || here === "using") &&
      English.languages.has(key(tokens, at + 1).toLowerCase())
    ) {
      out.push(word("in"))
    } else {
      const synonym = token.name ? undefined : English.synonyms.get(here)
      out.push(synonym === undefined ? token : { ...token, key: synonym })
    }
  }
  return out
}

const articleEnds = (tokens: Tokens, at: number): boolean => tokens[at]?.kind !== "word"

// "What is time" is not "what is the time", and "a few" is not "few". In a longer question an article may be left out, but "a president"
// is still not "the president".
const articles = (tokens: Tokens): Tokens => {
  const content = tokens.filter(
    ({ key, kind }) =>
      !English.articles.has(key) && !English.questionWords.has(key) && kind !== "break" && !light.has(key)
  ).length
  if (content < 3) return tokens
  const out: Array<Token> = []
  for (let at = 0; at < tokens.length; at++) {
    const token = tokens[at]
    if (token === undefined) continue
    const next = tokens[at + 1]
    if (next === undefined || !English.articles.has(token.key) || quantities.has(next.key)) out.push(token)
    else {
      out.push({ ...next, article: token.key === "the" ? "the" : "a" })
      at++
    }
  }
  return out
}

const light = new Set("be was do does did of in on at to".split(" "))
const quantities = new Set("few little number bit lot couple".split(" "))

// An opening may be wrapped in another, so each is tried again; each rule makes the text shorter or is the last.
const opened = (tokens: Tokens): Tokens => {
  let now = tokens
  for (let round = 0; round < 4; round++) {
    const rule = openings.find(([pattern]) => matches(now, 0, pattern))
    if (rule === undefined) break
    const [pattern, replacement] = rule
    now = [...replacement, ...now.slice(pattern.length)]
  }
  if (/^(?:explain|describe|tell|show)$/.test(key(now, 0))) {
    const at = key(now, 1) === "me" ? 2 : matches(now, 1, ["to", "me"]) ? 3 : 1
    if (English.questionWords.has(key(now, at))) now = now.slice(at)
  }
  if (matches(now, 0, ["list|name|provide|give"])) {
    const at = key(now, 1) === "me" ? 2 : 1
    if (now[at]?.kind === "number" && now[at].key !== "1") now = [word("list"), ...now.slice(at)]
  }
  const making = matches(now, 0, ["write|create|draft|compose|generate"]) ? 1 : matches(now, 0, ["give", "me"]) ? 2 : 0
  if (making === 1 && key(now, 1) === "me") now = [...now.slice(0, 1), ...now.slice(2)]
  if (making > 0) {
    const made = now.slice(making, making + 5).some(({ key }) => English.artifacts.has(key))
    if (made) now = [word("write"), ...now.slice(making)]
  }
  return now
}

const openings = [
  ["what be|was the|one|a method to", "how to"],
  ["what be method|methods to", "how to"],
  ["what be some|the methods|steps to", "how to"],
  ["what be steps to", "how to"],
  ["what do i need|have to do to", "how to"],
  ["explain|describe how to", "how to"],
  ["tell|show|teach me how to", "how to"],
  ["be it possible for me to", "can i"],
  ["be it possible to", "can i"],
  ["be i able to", "can i"],
  ["what be the reason why|that", "why"],
  ["what be reason why|that", "why"],
  ["what be the reason", "why"],
  ["what be reason", "why"],
  ["who be the author|writer of", "who wrote"],
  ["who be author|writer of", "who wrote"],
  ["who be inventor of", "who invented"],
  ["who be the inventor of", "who invented"],
  ["give me a summary of", "summarize"],
  ["give me summary of", "summarize"],
  ["give|write|provide summary of", "summarize"],
  ["give me comparison between|of", "compare"],
  ["give|write|provide comparison between|of", "compare"],
  ["give me explanation of", "explain"],
  ["give|write|provide explanation of", "explain"],
  ["give me description of", "describe"],
  ["give|write|provide description of", "describe"],
  ["give me list of", "list"],
  ["give|write|provide list of", "list"]
].map(([pattern = "", replacement = ""]): readonly [ReadonlyArray<string>, Tokens] => [
  pattern.split(" "),
  words(replacement)
])

const shape = (tokens: Tokens): Tokens => owned(asked(included(tough(tallest(gerund(tokens))))))

// "A way of parsing", "the process for making": how to parse, how to make.
const gerund = (tokens: Tokens): Tokens => {
  const starts = matches(tokens, 0, ["what", "be"])
  const at = English.articles.has(key(tokens, 2)) ? 3 : 2
  const verb = English.gerunds.get(key(tokens, at + 2))
  return starts && verb !== undefined && matches(tokens, at, ["method|methods|steps|process|syntax", "of|for"])
    ? [...words("how to"), word(verb), ...tokens.slice(at + 3)]
    : tokens
}

// "Which building is the tallest in the world": what is the tallest building in the world.
const tallest = (tokens: Tokens): Tokens => {
  if (!matches(tokens, 0, ["what"]) || key(tokens, 2) !== "be") return tokens
  const at = English.articles.has(key(tokens, 3)) ? 4 : 3
  const superlative = tokens[at]
  const noun = tokens[1]
  const ends = at + 1 === tokens.length || prepositions.has(key(tokens, at + 1))
  return superlative !== undefined &&
    noun !== undefined &&
    /^.+est$/.test(superlative.key) &&
    !lookalikes.has(superlative.key) &&
    ends
    ? [...words("what be"), superlative, noun, ...tokens.slice(at + 1)]
    : tokens
}

const lookalikes = new Set(
  "test west rest nest quest guest request interest forest honest chest arrest contest protest".split(" ")
)
const prepositions = new Set("in on at of for from to with by about between into as than and or".split(" "))

// "Is it safe to eat raw eggs": are raw eggs safe to eat.
const tough = (tokens: Tokens): Tokens => {
  const adjective = tokens[2]
  const verb = tokens[4]
  const rest = tokens.slice(5)
  return matches(tokens, 0, ["be", "it"]) &&
    adjective !== undefined &&
    English.toughs.has(adjective.key) &&
    key(tokens, 3) === "to" &&
    verb !== undefined &&
    rest.length > 0 &&
    rest.length < 5 &&
    rest.every(({ key, kind, comma }) => kind === "word" && !comma && !prepositions.has(key))
    ? [word("be"), ...rest, adjective, word("to"), verb]
    : tokens
}

// "Does the plan include support": is support included in the plan.
const included = (tokens: Tokens): Tokens => {
  const verb = tokens.findIndex(({ key }) => key === "include")
  return matches(tokens, 0, ["does|do"]) &&
    verb > 1 &&
    verb < tokens.length - 1 &&
    tokens.every(({ kind }) => kind === "word") &&
    !tokens.some(({ key }) => key !== "include" && (prepositions.has(key) || English.negations.has(key)))
    ? [word("be"), ...tokens.slice(verb + 1), ...words("included in"), ...tokens.slice(1, verb)]
    : tokens
}

const asked = (tokens: Tokens): Tokens => {
  if (!English.questionWords.has(key(tokens, 0))) return tokens
  if (matches(tokens, 1, ["do|does"])) return [...tokens.slice(0, 1), ...tokens.slice(2)]
  // "What a mutex is", after "explain" went: what is a mutex.
  const last = tokens.at(-1)
  const moved = last?.key === "be" && tokens.length > 2 && tokens.filter(({ key }) => key === "be").length === 1
  return moved && /^(?:what|who|where)$/.test(key(tokens, 0))
    ? [...tokens.slice(0, 1), last, ...tokens.slice(1, -1)]
    : tokens
}

const owned = (tokens: Tokens): Tokens => {
  const at = tokens.findIndex(({ key }) => key === "'s")
  const [owner, thing] = [tokens[at - 1], tokens[at + 1]]
  if (owner === undefined || thing?.kind !== "word" || owner.kind !== "word") return tokens
  // Of longer names and things nobody knows where they begin and end.
  const before = tokens[at - 2]
  const alone = before === undefined || prepositions.has(before.key) || light.has(before.key) || verbs.has(before.key)
  const ends = at + 2 === tokens.length || prepositions.has(key(tokens, at + 2)) || tokens[at + 2]?.kind === "break"
  return alone && ends ? [...tokens.slice(0, at - 1), thing, word("of"), owner, ...tokens.slice(at + 2)] : tokens
}

const verbs = new Set("summarize explain describe compare outline write give translate analyze review list".split(" "))
