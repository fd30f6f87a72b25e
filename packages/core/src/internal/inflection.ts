/** Forms of English verbs, made by rule, so that "a way to run" and "a way of running" can be compared without a dictionary. */

/** The -ing form of a verb. Different verbs have different forms, so two texts may be compared by it. */
export const gerund = (verb: string): string => {
  if (verb === "singe" || /(?:ee|oe|ye)$/.test(verb)) return `${verb}ing`
  if (verb.endsWith("ie")) return `${verb.slice(0, -2)}ying`
  if (verb.length > 2 && verb.endsWith("e")) return `${verb.slice(0, -1)}ing`
  return short.test(verb) || doubled.has(verb) ? `${verb}${verb.slice(-1)}ing` : `${verb}ing`
}

const short = /^(?:qu|[^aeiou])*[aeiou][bdfgklmnprtvz]$/
const doubled = new Set(
  "begin forget prefer admit commit submit refer occur permit control regret equip upset reset".split(" ")
)

/** The verb of a third person, or `undefined` for a word that can be none. */
export const verbOf = (word: string): string | undefined => {
  const known = irregular.get(word)
  if (known !== undefined) return known
  if (word.length < 4 || !word.endsWith("s") || /(?:ss|us|is|'s)$/.test(word)) return undefined
  if (word.length > 4 && word.endsWith("ies")) return `${word.slice(0, -3)}y`
  return /(?:ss|sh|ch|x|zz)es$/.test(word) ? word.slice(0, -2) : word.slice(0, -1)
}

const irregular: ReadonlyMap<string, string> = new Map([
  ["does", "do"],
  ["goes", "go"],
  ["has", "have"]
])
