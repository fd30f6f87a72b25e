import * as English from "./english.ts"
import { gerund, verbOf } from "./inflection.ts"
import { isQuestion, matches } from "./reading.ts"
import { stem } from "./stem.ts"
import { type Token, word } from "./tokens.ts"

/**
 * One form for turns of phrase that ask the same. Each rule looks at one text alone, names the words it knows, and leaves everything else
 * in its place, so that what the phrase is about is still compared word by word.
 */
export const phrased = (tokens: Tokens): Tokens => rules.reduce((now, rule) => rule(now), tokens)

type Tokens = ReadonlyArray<Token>

const key = (tokens: Tokens, at: number): string => tokens[at]?.key ?? ""

const words = (text: string): Tokens => text.split(" ").map(word)

const phrase = (text: string): ReadonlyArray<string> => text.split(" ")

const be = "is|are"
const been = "is|are|was|were"

/** Phrases of several words that mean the same wherever they stand. */
const replaced = (tokens: Tokens): Tokens => {
  const out: Array<Token> = []
  for (let at = 0; at < tokens.length; at++) {
    const token = tokens[at]
    if (token === undefined) continue
    const rule =
      token.kind === "word" && !token.name ? phrases.get(token.key)?.find(([it]) => matches(tokens, at, it)) : undefined
    if (rule === undefined) out.push(token)
    else {
      // A comma behind the phrase stays where it is.
      const last = tokens[at + rule[0].length - 1]
      out.push(...rule[1].map((it, i) => (i === rule[1].length - 1 ? { ...it, comma: last?.comma === true } : it)))
      at += rule[0].length - 1
    }
  }
  return out.map((token, at) => {
    const before = out[at - 1]
    // "30 kilometers" and "30 km".
    const unit =
      before?.kind === "number" || /^(?:many|to|into|in)$/.test(before?.key ?? "") ? units.get(token.key) : undefined
    if (unit !== undefined) return { ...token, key: unit }
    if (token.key === "quit" && key(out, at + 1).endsWith("ing")) return { ...token, key: "stop" }
    if (token.key === "on" && systems.has(key(out, at + 1))) return { ...token, key: "in" }
    if (token.key === "into" && /^(?:translate|convert)$/.test(key(out, 0))) return { ...token, key: "to" }
    if (token.key === "on" && writings.has(before?.key ?? "")) return { ...token, key: "about" }
    return token
  })
}

const phrases: ReadonlyMap<string, ReadonlyArray<readonly [ReadonlyArray<string>, Tokens]>> = Map.groupBy(
  [
    ["turn|switch on", "enable"],
    ["turn|switch off", "disable"],
    ["activate", "enable"],
    ["deactivate", "disable"],
    ["reduce weight", "lose weight"],
    ["web site", "website"],
    ["web sites", "websites"],
    ["web page", "webpage"],
    ["data base", "database"],
    ["hand writing", "handwriting"],
    ["break up", "breakup"],
    ["salt water", "saltwater"],
    ["on line", "online"],
    ["syntax for", "syntax of"],
    ["time zone", "timezone"],
    ["file name", "filename"],
    ["user name", "username"],
    ["a lot of", "many"],
    ["lots of", "many"],
    ["in order to", "to"],
    ["whether or not", "whether"],
    ["help me to", "help me"],
    ["each day", "per day"],
    ["each week", "per week"],
    ["each month", "per month"],
    ["each year", "per year"],
    ["test|determine|see if|whether", "check whether"],
    ["tests|determines if|whether", "checks whether"]
  ].flatMap(([from = "", to = ""]) => {
    const [first = "", ...others] = phrase(from)
    return first.split("|").map((one): readonly [ReadonlyArray<string>, Tokens] => [[one, ...others], words(to)])
  }),
  ([[first = ""]]) => first
)

const units: ReadonlyMap<string, string> = new Map(
  `kilometer/km kilometers/km centimeter/cm centimeters/cm millimeter/mm millimeters/mm kilogram/kg kilograms/kg kilos/kg
  milligram/mg milligrams/mg milliliter/ml milliliters/ml`
    .split(/\s+/)
    .map((pair): [string, string] => {
      const [long = "", short = ""] = pair.split("/")
      return [long, short]
    })
)
const systems = new Set("linux windows Windows macos mac ubuntu debian android ios".split(" "))
const writings = new Set(
  "essay essays article articles poem poems speech book books paper papers paragraph lecture".split(" ")
)

// "I want to cancel my order": cancel my order.
const requested = (tokens: Tokens): Tokens => {
  const at = matches(tokens, 0, ["i", "want|need", "to"]) ? 3 : matches(tokens, 0, ["i", "would", "like", "to"]) ? 4 : 0
  return at > 0 && requests.has(key(tokens, at)) && !tokens.some(({ kind }) => kind === "break")
    ? tokens.slice(at)
    : tokens
}

const requests = new Set(
  "cancel return change update reset delete close order book reschedule renew upgrade downgrade exchange".split(" ")
)

// "Who is the inventor of X": who invented X. "Which artist painted X": who painted X.
const agents = (tokens: Tokens): Tokens => {
  if (matches(tokens, 0, ["who", "is|was|are|were"])) {
    const at = English.articles.has(key(tokens, 2)) ? 3 : 2
    const did = agent.get(key(tokens, at))
    if (did !== undefined && key(tokens, at + 1) === "of") return [word("who"), word(did), ...tokens.slice(at + 2)]
  }
  return matches(tokens, 0, ["which|what"]) && agent.get(key(tokens, 1)) === key(tokens, 2)
    ? [word("who"), ...tokens.slice(2)]
    : tokens
}

const agent: ReadonlyMap<string, string> = new Map(
  `author/wrote writer/wrote inventor/invented founder/founded founders/founded creator/created
  discoverer/discovered composer/composed painter/painted artist/painted architect/designed scientist/discovered`
    .split(/\s+/)
    .map((pair): [string, string] => {
      const [noun = "", did = ""] = pair.split("/")
      return [noun, did]
    })
)

// "How old is the wall": what is the age of the wall. The thing measured must be all that follows.
const attributed = (tokens: Tokens): Tokens => {
  const end = tokens.at(-1)?.kind === "break" ? tokens.length - 1 : tokens.length
  const thing = (from: number, to = end): boolean =>
    to > from &&
    to - from < 7 &&
    tokens
      .slice(from, to)
      .every(({ comma, key, kind }, at) => kind === "word" && !clausal.has(key) && (!comma || from + at === to - 1))
  const of = (attribute: string, copula: Token | undefined, from: number, to = end): Tokens =>
    copula === undefined ? tokens : [word("what"), copula, ...words(`the ${attribute} of`), ...tokens.slice(from, to)]

  if (key(tokens, 0) === "how") {
    const attribute = attributes.get(key(tokens, 1))
    const named = key(tokens, 1) !== "high" || tokens.slice(3, 5).some(({ name }) => name)
    if (attribute !== undefined && named && matches(tokens, 2, [been]) && thing(3)) return of(attribute, tokens[2], 3)
    if (matches(tokens, 1, ["far", be])) {
      const from = tokens.findIndex(({ key }) => key === "from")
      if (from > 3 && thing(3, from) && thing(from + 1)) {
        return [
          ...words("what is the distance from"),
          ...tokens.slice(3, from),
          word("to"),
          ...tokens.slice(from + 1, end)
        ]
      }
    }
    if (matches(tokens, 1, ["much", "does|do"]) && key(tokens, end - 1) === "weigh" && thing(3, end - 1)) {
      return of("weight", word("is"), 3, end - 1)
    }
    if (matches(tokens, 1, ["fast", "does|do"]) && key(tokens, end - 1) === "travel" && thing(3, end - 1)) {
      return of("speed", word("is"), 3, end - 1)
    }
    if (matches(tokens, 1, ["many", "people", "live", "in"]) && thing(5)) return of("population", word("is"), 5)
  }
  if (matches(tokens, 0, ["what", been, "the", "birthplace", "of"]) && thing(5)) {
    return [...words("where was"), ...tokens.slice(5, end), word("born")]
  }
  if (matches(tokens, 0, ["at", "what", "temperature", "does|do|will"])) {
    const verb = tokens.findIndex(({ key }) => points.has(key))
    if (verb > 4 && thing(4, verb)) {
      return [
        ...words(`what is the ${points.get(key(tokens, verb)) ?? ""} point of`),
        ...tokens.slice(4, verb),
        ...tokens.slice(verb + 1, end)
      ]
    }
  }
  return tokens
}

const attributes: ReadonlyMap<string, string> = new Map([
  ["old", "age"],
  ["tall", "height"],
  ["high", "height"],
  ["deep", "depth"],
  ["wide", "width"],
  ["heavy", "weight"],
  ["long", "length"]
])
const points: ReadonlyMap<string, string> = new Map([
  ["boil", "boiling"],
  ["melt", "melting"],
  ["freeze", "freezing"]
])
const clausal = new Set(
  `it he she they you i we to for from in on at by with than if when while before after until since that which who what and or not no
  going allowed supposed too as getting`.split(/\s+/)
)

// "In which time zone is Denver": which time zone is Denver in. The preposition stands alone at the end, as most people say it.
const stranded = (tokens: Tokens): Tokens => {
  const end = tokens.at(-1)?.kind === "break" ? tokens.length - 1 : tokens.length
  const preposition = tokens[0]
  const verb = tokens.findIndex(({ key }) => English.auxiliaries.has(key))
  return preposition !== undefined &&
    matches(tokens, 0, ["in|from|on|to", "what|which"]) &&
    verb > 2 &&
    verb < 6 &&
    verb < end - 1 &&
    !placing.has(key(tokens, end - 1)) &&
    tokens.slice(0, end).every(({ comma, kind }) => kind === "word" && !comma)
    ? [...tokens.slice(1, end), preposition]
    : tokens
}

const placing = new Set("in from on at to of for with by".split(" "))

// "My card was declined, why?": why was my card declined.
const asked = (tokens: Tokens): Tokens => {
  const end = tokens.at(-1)?.kind === "break" ? tokens.length - 1 : tokens.length
  const told = tokens.slice(0, end - 1)
  const last = told.at(-1)
  const stated =
    key(tokens, end - 1) === "why" &&
    last?.comma === true &&
    !isQuestion(told) &&
    told.slice(0, -1).every(({ comma, kind }) => kind === "word" && !comma)
  return stated ? clause([word("why"), ...told.slice(0, -1), { ...last, comma: false }]) : tokens
}

// "What side effects does aspirin have": what are the side effects of aspirin.
const having = (tokens: Tokens): Tokens => {
  const end = tokens.at(-1)?.kind === "break" ? tokens.length - 1 : tokens.length
  const verb = tokens.findIndex(({ key }) => key === "does" || key === "do")
  const plain = (from: number, to: number) =>
    to > from &&
    to - from < 5 &&
    tokens
      .slice(from, to)
      .every(({ comma, key, kind }) => kind === "word" && !comma && !clausal.has(key) && !unclear.has(key))
  return matches(tokens, 0, ["what|which"]) &&
    key(tokens, end - 1) === "have" &&
    plain(1, verb) &&
    (plural(tokens[verb - 1]) || key(tokens, verb - 1) === "effects") &&
    plain(verb + 1, end - 1)
    ? [...words("what are the"), ...tokens.slice(1, verb), word("of"), ...tokens.slice(verb + 1, end - 1)]
    : tokens
}

// "What causes X": what is the cause of X. "What do you need for the symptoms" stays.
const asWhat = (tokens: Tokens): Tokens => {
  if (matches(tokens, 0, ["what", "causes"]) && tokens.length > 2)
    return [...words("what is the cause of"), ...tokens.slice(2)]
  if (matches(tokens, 0, ["what", "caused"]) && tokens.length > 2)
    return [...words("what was the cause of"), ...tokens.slice(2)]
  if (matches(tokens, 0, ["what", been, "the", "causes", "of"]))
    return [...tokens.slice(0, 3), word("cause"), ...tokens.slice(4)]
  return tokens
}

// "A way to sort", "a way of sorting", "a function that sorts": the verb in one form, for what is to be done is the same.
const purposes = (tokens: Tokens): Tokens => {
  const out: Array<Token> = []
  for (let at = 0; at < tokens.length; at++) {
    const token = tokens[at]
    if (token === undefined) continue
    out.push(token)
    const noun = token.kind === "word" && !token.comma ? token.key : ""
    const placed =
      tools.has(noun) && key(tokens, at + 1) === "in" && English.languages.has(key(tokens, at + 2).toLowerCase())
    if (placed) out.push(...tokens.slice(at + 1, at + 3))
    if (placed) at += 2
    const next = key(tokens, at + 1)
    const then = tokens[at + 2]
    if (then === undefined || then.kind !== "word") continue
    let verb: string | undefined
    if (means.has(noun) || tools.has(noun)) {
      if (next === "to") verb = gerund(then.key)
      else if (/^(?:of|for)$/.test(next) && then.key.length > 5 && then.key.endsWith("ing")) verb = then.key
    }
    if (verb === undefined && tools.has(noun) && /^(?:that|which)$/.test(next) && !English.auxiliaries.has(then.key)) {
      const base = verbOf(then.key)
      if (base !== undefined) verb = gerund(base)
    }
    if (verb === undefined && at === 0 && noun === "how" && next === "to") verb = gerund(then.key)
    if (verb === undefined) continue
    out.push(word("to"), { ...then, key: verb })
    at += 2
  }
  // "What is the command to list files": how to list files, where only one thing can be meant.
  const way = matches(out, 0, ["what", be, "the|a|an", "way|method|process|syntax|command", "to"]) ? 5 : 0
  const making = way > 0 && key(out, 3) === "process" && makers.has(key(out, 5))
  if (making) return [...words("how they"), ...out.slice(5)]
  return way > 0 && key(out, 3) !== "process" ? [...words("how to"), ...out.slice(way)] : out
}

const means = new Set(
  "way ways method methods process technique techniques tip tips command syntax steps step".split(" ")
)
const tools = new Set(
  `function functions script program query class regex macro formula app apps tool tools book books website websites site sites
  software course courses library resource resources`.split(/\s+/)
)

// "How is X made", "how do they make X", "what is the process of making X".
const acted = (tokens: Tokens): Tokens => {
  if (key(tokens, 0) !== "how") return tokens
  if (matches(tokens, 1, ["they|people"]) && tokens.length > 3) {
    const verb = gerund(key(tokens, 2))
    return makers.has(verb) ? [...words("how they"), word(verb), ...tokens.slice(3)] : tokens
  }
  // "How do you boil an egg" asks nobody in particular; "how do you use my data" asks us.
  if (
    key(tokens, 1) === "you" &&
    general.has(key(tokens, 2)) &&
    !tokens.some(({ key }) => /^(?:my|our|your|me|us)$/.test(key))
  ) {
    return [...words("how to"), word(gerund(key(tokens, 2))), ...tokens.slice(3)]
  }
  if (!matches(tokens, 1, [be])) return tokens
  const at = tokens.findIndex(({ key }) => participles.has(key))
  const verb = participles.get(key(tokens, at))
  const thing = tokens.slice(2, at)
  if (spelt.has(key(tokens, tokens.length - 1)) && tokens.length > 3 && tokens.length < 7) {
    const rest = tokens.slice(2, -1)
    const spoken = rest.every(({ comma, key, kind }) => kind === "word" && !comma && !clausal.has(key))
    return spoken ? [...words("how to"), word(spelt.get(key(tokens, tokens.length - 1)) ?? ""), ...rest] : tokens
  }
  const ends =
    at + 1 === tokens.length || tokens[at + 1]?.kind === "break" || /^(?:in|from|with|out)$/.test(key(tokens, at + 1))
  return verb !== undefined &&
    ends &&
    thing.length > 0 &&
    thing.length < 5 &&
    thing.every(({ comma, key, kind }) => kind === "word" && !comma && !clausal.has(key))
    ? [...words("how they"), word(verb), ...thing, ...tokens.slice(at + 1)]
    : tokens
}

const spelt: ReadonlyMap<string, string> = new Map([
  ["spelled", "spelling"],
  ["spelt", "spelling"],
  ["pronounced", "pronouncing"]
])

const participles: ReadonlyMap<string, string> = new Map([
  ["made", "making"],
  ["built", "building"],
  ["produced", "producing"],
  ["manufactured", "manufacturing"],
  ["brewed", "brewing"],
  ["refined", "refining"],
  ["harvested", "harvesting"]
])
const makers = new Set(participles.values())
const general = new Set(
  `make cook boil bake fry roast grill peel cut pronounce spell solve calculate compute convert measure sort reverse parse iterate
  tie fold knit sew draw paint play`.split(/\s+/)
)

// "What payments do you accept": which payments are accepted.
const accepted = (tokens: Tokens): Tokens => {
  if (!matches(tokens, 0, ["what|which"])) return tokens
  const end = tokens.at(-1)?.kind === "break" ? tokens.length - 1 : tokens.length
  const verb = offered.get(key(tokens, end - 1))
  const thing = tokens.slice(1, end - 3)
  return verb !== undefined &&
    matches(tokens, end - 3, ["do", "you"]) &&
    thing.length > 0 &&
    thing.length < 4 &&
    thing.every(({ kind }) => kind === "word")
    ? [word("what"), ...thing, word("are"), word(verb), ...tokens.slice(end)]
    : tokens
}

const offered: ReadonlyMap<string, string> = new Map([
  ["accept", "accepted"],
  ["support", "supported"],
  ["offer", "offered"]
])

// "Explain quantum entanglement": what is quantum entanglement. A thing with an article, or one that belongs to somebody, is told about.
const explained = (tokens: Tokens): Tokens => {
  if (key(tokens, 0) === "describe" || matches(tokens, 0, ["tell", "me", "about"])) {
    const at = key(tokens, 0) === "describe" ? 1 : 3
    const rest = tokens.slice(at)
    const plain =
      rest.length > 0 &&
      rest.length < 9 &&
      rest.every(({ key, kind, name }) => kind === "word" && !name && !unclear.has(key))
    return plain ? [word("describe"), ...rest] : tokens
  }
  if (key(tokens, 0) === "correct") return [word("fix"), ...tokens.slice(1)]
  if (key(tokens, 0) !== "explain" || isQuestion(tokens.slice(1))) return tokens
  if (matches(tokens, tokens.length - 2, ["to", "me"])) return explained(tokens.slice(0, -2))
  const difference = matches(tokens, 1, ["the", "difference", "between"])
  const at = difference ? tokens.length : English.articles.has(key(tokens, 1)) && key(tokens, 1) !== "the" ? 2 : 1
  const rest = tokens.slice(at)
  const head = rest.findIndex(({ key }) => key === "in")
  const thing = head === -1 ? rest : rest.slice(0, head)
  const place = head === -1 ? [] : rest.slice(head + 1)
  const plain =
    thing.length > 0 &&
    thing.length < 4 &&
    thing.every(
      ({ comma, key, kind }) =>
        kind === "word" && !comma && !clausal.has(key) && !unclear.has(key) && !English.articles.has(key)
    ) &&
    (head === -1 || (place.length === 1 && English.languages.has(key(place, 0).toLowerCase())))
  if (!difference && !plain) return tokens
  return [word("what"), word(!difference && at === 1 && plural(thing.at(-1)) ? "are" : "is"), ...tokens.slice(1)]
}

// What depends on who tells it, on what came before, or says how to tell it.
const unclear = new Set(
  `this that these those it them him her me us yourself myself itself himself herself my your his its our their briefly quickly slowly
  simply shortly clearly further more less better formally casually why how what 's please yes no again everything something`.split(
    /\s+/
  )
)

const plural = (token: Token | undefined): boolean =>
  token !== undefined && !token.name && token.key.length > 3 && stem(token.key) !== token.key

// "List the ingredients of X": what are the ingredients of X. "Calculate 2 + 2": what is 2 + 2.
const listed = (tokens: Tokens): Tokens => {
  if (matches(tokens, 0, ["list|name", "the"])) {
    const of = tokens.findIndex(({ key }) => key === "of")
    if (of > 2 && of < 5 && plural(tokens[of - 1])) return [...words("what are"), ...tokens.slice(1)]
  }
  const sum = tokens[1]
  return matches(tokens, 0, ["calculate|compute|evaluate"]) && (sum?.kind === "verbatim" || sum?.kind === "number")
    ? [...words("what is"), ...tokens.slice(1)]
    : tokens
}

// "Why is the sky blue", "the reason the sky is blue": the verb in one place.
const clause = (tokens: Tokens): Tokens => {
  if (!matches(tokens, 0, ["why"]) || English.auxiliaries.has(key(tokens, 1))) return tokens
  const at = tokens.findIndex(({ key }) => English.auxiliaries.has(key))
  const copula = tokens[at]
  const simple =
    copula !== undefined &&
    at > 1 &&
    at < 6 &&
    tokens.filter(({ key }) => English.auxiliaries.has(key)).length === 1 &&
    tokens.every(
      ({ comma, key, kind }, i) => !comma && (kind !== "break" || i === tokens.length - 1) && !linking.has(key)
    )
  return simple && matches(tokens, at, [been])
    ? [word("why"), copula, ...tokens.slice(1, at), ...tokens.slice(at + 1)]
    : tokens
}

const linking = new Set("that which who whom whose what and or but because if when while although so than".split(" "))

// "What are closures", "how do cats purr": of any closure, of any cat. A plural without an article and the singular with "a" ask the same.
const generic = (tokens: Tokens): Tokens => {
  if (matches(tokens, 0, ["what", "are"])) {
    const stop = tokens.findIndex(({ key, kind }, at) => at > 1 && (kind === "break" || key === "in"))
    const end = stop === -1 ? tokens.length : stop
    const last = tokens[end - 1]
    const alone = tokens
      .slice(2, end)
      .every(
        ({ comma, key, kind }) =>
          kind === "word" && !comma && !clausal.has(key) && !unclear.has(key) && !determiners.has(key)
      )
    return last !== undefined && end > 2 && end < 6 && alone && plural(last)
      ? [...words("what is a"), ...tokens.slice(2, end - 1), { ...last, key: stem(last.key) }, ...tokens.slice(end)]
      : tokens
  }
  if (matches(tokens, 0, ["what", "do"]) && tokens.length < 9) {
    const verb = tokens.findIndex(({ key }, at) => at > 2 && key === "do")
    const last = tokens[verb - 1]
    const alone = tokens
      .slice(2, verb)
      .every(
        ({ comma, key, kind }) =>
          kind === "word" && !comma && !clausal.has(key) && !unclear.has(key) && !determiners.has(key)
      )
    return last !== undefined && verb > 2 && verb < 6 && alone && plural(last)
      ? [...words("what does a"), ...tokens.slice(2, verb - 1), { ...last, key: stem(last.key) }, ...tokens.slice(verb)]
      : tokens
  }
  const subject = tokens[1]
  return matches(tokens, 0, ["how|why"]) &&
    subject !== undefined &&
    plural(subject) &&
    tokens.length > 2 &&
    !subject.comma &&
    tokens[2]?.kind === "word" &&
    !clausal.has(key(tokens, 2))
    ? [...tokens.slice(0, 1), word("a"), { ...subject, key: stem(subject.key) }, ...tokens.slice(2)]
    : tokens
}

const determiners = new Set(
  "the a an some any all most many few several other both good bad best worst common great top different there".split(
    " "
  )
)

// Last, so that every rule stands above. The order counts: an opening is unified before what follows it is read.
const rules: ReadonlyArray<(tokens: Tokens) => Tokens> = [
  replaced,
  stranded,
  asked,
  having,
  requested,
  agents,
  asWhat,
  attributed,
  purposes,
  clause,
  listed,
  explained,
  accepted,
  acted,
  generic
]
