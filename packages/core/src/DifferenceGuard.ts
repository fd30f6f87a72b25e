/**
 * Says whether two questions that look alike may share an answer, and if not, why.
 *
 * Embeddings measure what a text is about. They hardly notice a number, a negation, two names that changed places, the date: at a cosine of
 * 0.9 one in five real matches is wrong. The guard looks at nothing else. It reduces both texts to what they ask, word by word, and any
 * difference that it cannot explain refuses the match:
 *
 * - numbers, identifiers, units and dates; negation; opposites; the kind and the number of questions; modality;
 * - quoted text, code, everything after a colon or a line break, character by character;
 * - acronyms and names; every other word, after taking off plurals and a small table of synonyms; and the order of all of these;
 * - the language. Of texts that are not plainly English only such pass as Unicode alone writes differently.
 *
 * It explains: the politeness, contractions and openings of {@link CanonicalKey}; the articles of longer questions; "what is the way to",
 * "explain how", "what is the reason"; a condition put first ("In Python, how …"); "Hamlet's plot" and "the plot of Hamlet"; "is it safe
 * to eat eggs" and "are eggs safe to eat"; "which building is the tallest" and "what is the tallest building";
 * "in which country is Lima" and "which country is Lima in"; "what symptoms does measles have" and "what are the symptoms of measles".
 *
 * The guard alone proves nothing (lexical likeness without a learned embedding was right in 95 % of the cases); it is the second lock.
 * It is symmetric, passes whatever has the same canonical key, takes linear time and reads at most {@link maxLength} characters of each text.
 *
 * @since 0.1.0
 */
import * as CanonicalKey from "./CanonicalKey.ts"
import * as English from "./internal/english.ts"
import { read, stems, write } from "./internal/reading.ts"
import { skeleton } from "./internal/skeleton.ts"
import { stem } from "./internal/stem.ts"
import type { Token } from "./internal/tokens.ts"

/**
 * Why two texts may not share an answer.
 *
 * **Details**
 *
 * - `Length`: a text is longer than {@link maxLength}. `Language`: one is English, the other is not.
 * - `Verbatim`: quoted text, code, a payload or an address differs. `Number`: a number or an identifier with digits.
 * - `Question`: the kind or the number of the questions. `Negation`, `Modality` ("can", "should"), `Opposite` ("increase", "decrease").
 * - `Acronym`, `Name`, `Date`, `Unit`, `Word`: some word of that kind. `Order`: the same words in another order or with other articles.
 *
 * @category models
 * @since 0.1.0
 */
export type Reason =
  | "Length"
  | "Language"
  | "Verbatim"
  | "Number"
  | "Question"
  | "Negation"
  | "Modality"
  | "Opposite"
  | "Acronym"
  | "Name"
  | "Date"
  | "Unit"
  | "Word"
  | "Order"

/**
 * A difference that nothing explains: the first reason, and what only one of the two texts says.
 *
 * @category models
 * @since 0.1.0
 */
export interface Difference {
  readonly reason: Reason
  readonly left: ReadonlyArray<string>
  readonly right: ReadonlyArray<string>
}

/**
 * The longest text that is compared, in UTF-16 units.
 *
 * @category constants
 * @since 0.1.0
 */
export const maxLength = 8192

/**
 * Compares two texts and returns why they may not share an answer, or `undefined` when they may as far as words can tell.
 *
 * **Example** (Near misses)
 *
 * ```ts import.meta.vitest
 * import { DifferenceGuard } from "@llm-resilience/core"
 *
 * const { compare } = DifferenceGuard
 *
 * compare("Is it safe to eat raw eggs?", "Are raw eggs safe to eat?") // => undefined
 * compare("Did Brazil beat Germany?", "Did Germany beat Brazil?")?.reason // => "Order"
 * compare("Why should I learn Rust?", "Why shouldn't I learn Rust?")?.reason // => "Negation"
 * compare("What is 5 % of 80?", "What is 8 % of 80?") // => { reason: "Number", left: ["5"], right: ["8"] }
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const compare = (left: string, right: string): Difference | undefined => {
  if (left.length > maxLength || right.length > maxLength) return { reason: "Length", left: [], right: [] }
  const [a, b] = [read(left), read(right)]
  if (a.language !== b.language) return { reason: "Language", left: [], right: [] }
  if (a.language === "other") {
    const [one, other] = [CanonicalKey.unicode(left), CanonicalKey.unicode(right)]
    return one === other ? undefined : { reason: "Word", left: [one], right: [other] }
  }
  if (write(stems(a.tokens)) === write(stems(b.tokens))) return undefined
  return differ(skeleton(a.tokens), skeleton(b.tokens))
}

const differ = (left: ReadonlyArray<Token>, right: ReadonlyArray<Token>): Difference | undefined => {
  if (left.length === right.length && left.every((token, at) => same(token, right[at]))) return undefined
  const [onlyLeft, onlyRight] = [without(left, right), without(right, left)]
  return {
    reason: reasonOf(onlyLeft, onlyRight),
    left: onlyLeft.map(({ key }) => key),
    right: onlyRight.map(({ key }) => key)
  }
}

const same = (left: Token, right: Token | undefined): boolean =>
  left.key === right?.key &&
  (left.kind === "verbatim") === (right.kind === "verbatim") &&
  (left.article === undefined || right.article === undefined || left.article === right.article)

const without = (tokens: ReadonlyArray<Token>, others: ReadonlyArray<Token>): ReadonlyArray<Token> => {
  const left = new Map<string, number>()
  const name = ({ key, kind }: Token) => (kind === "verbatim" ? `" ${key}` : key)
  for (const other of others) left.set(name(other), (left.get(name(other)) ?? 0) + 1)
  return tokens.filter((token) => {
    const count = left.get(name(token)) ?? 0
    left.set(name(token), count - 1)
    return count <= 0
  })
}

// From what weighs most to what weighs least, so that both directions give the same reason.
const reasonOf = (left: ReadonlyArray<Token>, right: ReadonlyArray<Token>): Reason => {
  const all = [...left, ...right]
  if (all.length === 0) return "Order"
  if (all.some(({ kind }) => kind === "verbatim")) return "Verbatim"
  if (all.some(({ key, kind }) => kind === "number" || /\d/.test(key))) return "Number"
  if (all.some(({ key }) => English.negations.has(key))) return "Negation"
  if (opposed(left, right) || opposed(right, left)) return "Opposite"
  if (all.some(({ key, kind }) => kind === "break" || English.questionWords.has(key))) return "Question"
  if (all.some(({ key }) => English.modals.has(key))) return "Modality"
  if (all.some(({ key }) => English.dates.has(stem(key.toLowerCase())))) return "Date"
  if (all.some(({ key }) => English.units.has(stem(key)))) return "Unit"
  if (all.some(({ key }) => key.length > 1 && key === key.toUpperCase() && key !== key.toLowerCase())) return "Acronym"
  if (all.some(({ name }) => name)) return "Name"
  return "Word"
}

const opposed = (left: ReadonlyArray<Token>, right: ReadonlyArray<Token>): boolean => {
  const keys = new Set(right.map(({ key }) => key))
  return left.some(({ key }) => keys.has(English.antonyms.get(key) ?? ""))
}
