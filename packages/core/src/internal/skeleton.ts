import * as English from "./english.ts"
import { phrased } from "./phrases.ts"
import { isQuestion, matches, opened, stems } from "./reading.ts"
import { type Token, word } from "./tokens.ts"

/**
 * What a text asks, in the one order in which it is compared. Two texts that ask the same in ways the guard can explain have the same
 * skeleton, so each step rewrites one text without looking at the other.
 */
export const skeleton = (tokens: ReadonlyArray<Token>): ReadonlyArray<Token> =>
  stems(shape(made(articles(alike(phrased(fronted(tokens)))))))

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
  return opened([...rest, ...tokens.slice(0, comma + 1)])
}

const fronts = new Set("in on for at with using".split(" "))
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

// What is to be made may be asked for with several verbs.
const made = (tokens: Tokens): Tokens => {
  let now = tokens
  const rule = makings.find(([pattern]) => matches(now, 0, pattern))
  if (rule !== undefined) now = [...rule[1], ...now.slice(rule[0].length)]
  if (matches(now, 0, ["list|name|provide|give"])) {
    const at = key(now, 1) === "me" ? 2 : 1
    if (now[at]?.kind === "number" && now[at].key !== "1") now = [word("list"), ...now.slice(at)]
  }
  if (/^(?:write|create|draft|compose|generate|make|design|give|provide|tell)$/.test(key(now, 0))) {
    const at = key(now, 1) === "me" ? 2 : 1
    // "Give a speech" is not "write a speech", but nobody can give us one.
    const ours =
      key(now, 0) !== "tell" || now.slice(at, at + 3).some(({ key }) => /^(?:joke|story|riddle|tale)$/.test(key))
    if (ours && now.slice(at, at + 5).some(({ key }) => English.artifacts.has(key)))
      now = [word("write"), ...now.slice(at)]
    else if (key(now, 0) === "provide") now = [word("give"), ...now.slice(1)]
  }
  return now
}

const makings = [
  ["give summary of", "summarize"],
  ["give|write|provide summary of", "summarize"],
  ["give me summary of", "summarize"],
  ["give|write|provide comparison between|of", "compare"],
  ["give me comparison between|of", "compare"],
  ["give|write|provide explanation of", "explain"],
  ["give me explanation of", "explain"],
  ["give|write|provide description of", "describe"],
  ["give me description of", "describe"],
  ["give|write|provide list of", "list"],
  ["give me list of", "list"]
].map(([pattern = "", replacement = ""]): readonly [ReadonlyArray<string>, Tokens] => [
  pattern.split(" "),
  words(replacement)
])

const shape = (tokens: Tokens): Tokens => owned(included(tough(tallest(tokens))))

// "Which building is the tallest in the world": what is the tallest building in the world.
const tallest = (tokens: Tokens): Tokens => {
  const verb = tokens.findIndex(({ key }) => key === "be")
  const thing = tokens.slice(1, verb)
  if (!matches(tokens, 0, ["what"]) || thing.length > 3 || thing.length < 1) return tokens
  const at = English.articles.has(key(tokens, verb + 1)) ? verb + 2 : verb + 1
  const superlative = tokens[at]
  const rest = tokens.slice(at + 1)
  return superlative !== undefined &&
    thing.every(({ comma, key, kind }) => kind === "word" && !comma && !prepositions.has(key)) &&
    /^.+est$/.test(superlative.key) &&
    !lookalikes.has(superlative.key) &&
    (rest.length === 0 || prepositions.has(key(rest, 0)))
    ? [word("what"), ...tokens.slice(verb, at + 1), ...thing, ...rest]
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

const owned = (tokens: Tokens): Tokens => {
  const at = tokens.findIndex(({ key }) => key === "'s")
  const [owner, thing] = [tokens[at - 1], tokens[at + 1]]
  if (owner === undefined || thing?.kind !== "word" || owner.kind !== "word") return tokens
  // Of longer names and things nobody knows where they begin and end.
  const before = tokens[at - 2]
  const alone = before === undefined || prepositions.has(before.key) || light.has(before.key) || verbs.has(before.key)
  const ends = (end: number) =>
    end === tokens.length || prepositions.has(key(tokens, end)) || tokens[end]?.kind === "break"
  const end = ends(at + 2) ? at + 2 : tokens[at + 2]?.kind === "word" && ends(at + 3) ? at + 3 : 0
  return alone && end > 0
    ? [...tokens.slice(0, at - 1), ...tokens.slice(at + 1, end), word("of"), owner, ...tokens.slice(end)]
    : tokens
}

const verbs = new Set("summarize explain describe compare outline write give translate analyze review list".split(" "))
