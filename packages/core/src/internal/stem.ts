import { sieve } from "./vocabulary.ts"

/**
 * Takes plurals and the third person off a word, and nothing else.
 *
 * Common stemmers (Porter, Snowball) merge words that ask for different answers: "import" and "important", "animal" and "animation",
 * "closed" and "closing", "universe" and "university". So endings other than -s stay, and so do words whose -s has a meaning of its own.
 */
export const stem = (word: string): string => {
  const irregular = mayBeIrregular(word) ? forms.get(word) : undefined
  if (irregular !== undefined) return irregular
  const length = word.length
  if (length > 4 && word.endsWith("ie")) return `${word.slice(0, -2)}y`
  // The twenties are no year, and "topics" is the only plural among those that end like "physics" which matters.
  if (length < 4 || word.charCodeAt(length - 1) !== 115 || word.charCodeAt(0) < 58) return word
  if (word.endsWith("ics")) return word === "topics" ? "topic" : word
  const before = word[length - 2] ?? ""
  if (before === "s" || before === "u" || before === "i" || before === "'") return word
  if (length > 4 && word.endsWith("ies")) return `${word.slice(0, -3)}y`
  if (/(?:ss|sh|ch|x|z)es$/.test(word)) return word.slice(0, -2)
  return word.slice(0, -1)
}

const forms: ReadonlyMap<string, string> = new Map([
  ...`men/man women/woman children/child feet/foot teeth/tooth mice/mouse geese/goose goes/go does/do has/have wives/wife
  knives/knife lives/live leaves/leave heroes/hero potatoes/potato tomatoes/tomato echoes/echo analyses/analysis crises/crisis
  theses/thesis hypotheses/hypothesis caches/cache`
    .split(/\s+/)
    .map((pair): [string, string] => {
      const [from = "", to = ""] = pair.split("/")
      return [from, to]
    }),
  ...`news goods means arms customs glasses savings earnings spirits woods damages forces grounds premises clothes times waters works
  series species physics politics economics ethics mathematics statistics athletics pants jeans scissors windows kubernetes redis
  peoples rights interests values morals securities odds others contents authorities resources memories periods always perhaps besides sometimes afterwards backwards forwards upwards downwards texas kansas athens wales paris brussels
  netherlands philippines bahamas james charles williams jones davis adams gates jobs holmes atlas bias gas lens canvas christmas
  ios aws dns sas rails postgres jenkins jquery express less process access address business class pass mass miss guess dress stress
  states sales minutes papers looks manners brains greens blues talks terms quarters letters airs blinds directions facilities
  headquarters shorts contents irons thanks regards remains effects elements powers relations specs thus yes this its his ours
  hers yours theirs as was is us`
    .split(/\s+/)
    .map((word): [string, string] => [word, word])
])
const mayBeIrregular = sieve(forms.keys())
