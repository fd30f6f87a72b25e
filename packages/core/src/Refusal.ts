/**
 * Recognises an answer in which the model itself says that it will not help.
 *
 * It is a short answer that begins with one of a closed list of phrases: an apology or none, then the words of a refusal.
 * {@link phrases} is the whole list. It holds what models say when they decline a request as such (“I can't help with that”), not what
 * they say when something is missing or impossible (“I can't find the file”, “I can't do that without a key”), and nothing that is
 * found in the middle of an answer. A longer answer that begins so goes on to explain or to help, and is not a refusal.
 *
 * A list cannot be complete. What it does not know passes as an answer; a judge of your own may know better.
 *
 * @since 0.1.0
 */

/**
 * An answer with more characters than this is not a refusal, whatever it begins with.
 *
 * @category constants
 * @since 0.1.0
 */
export const maxLength = 400

/**
 * The phrases of one language: a refusal is one of `apologies` or none, then one phrase of each of `parts`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Phrases {
  readonly apologies: ReadonlyArray<string>
  readonly parts: ReadonlyArray<ReadonlyArray<string>>
}

const followedBy = (words: ReadonlyArray<string>, links: ReadonlyArray<string>): ReadonlyArray<string> =>
  words.flatMap((word) => links.map((link) => `${word}${link}`))

// "I can't help with this file" misses something, "I can't help with this." and "with this request" refuse.
const asked = [
  ...followedBy(
    ["that", "this"],
    [".", ",", ";", "!", " -", " –", " —", " request", " topic", " kind of request", " type of request"]
  ),
  "your request",
  "the request",
  "such a request",
  "such requests",
  "these requests",
  "those requests"
]

/**
 * Every phrase that counts, by language, in lower case and with straight apostrophes.
 *
 * @category constants
 * @since 0.1.0
 */
export const phrases: { readonly [language: string]: Phrases } = {
  en: {
    apologies: followedBy(
      [
        "i'm sorry",
        "i am sorry",
        "i'm really sorry",
        "i'm very sorry",
        "sorry",
        "i apologize",
        "i apologise",
        "my apologies",
        "apologies",
        "unfortunately",
        "i understand",
        "as an ai",
        "as an ai assistant",
        "as an ai language model",
        "as a language model",
        "i'm sorry, but as an ai",
        "i'm sorry, but as an ai language model"
      ],
      [", but ", ", ", " but ", ". ", "; ", " - ", " "]
    ),
    parts: [
      [
        "i can't ",
        "i cannot ",
        "i can not ",
        "i'm unable to ",
        "i am unable to ",
        "i'm not able to ",
        "i am not able to ",
        "i won't ",
        "i will not ",
        "i won't be able to ",
        "i'm afraid i can't ",
        "i'm afraid i cannot ",
        "i must decline to ",
        "i have to decline to "
      ],
      [
        ...followedBy(
          ["help with ", "help you with ", "assist with ", "assist you with ", "fulfill ", "fulfil ", "comply with "],
          asked
        ),
        ...followedBy(
          ["provide assistance with ", "provide help with ", "provide support for ", "engage with ", "engage in "],
          asked
        ),
        ...followedBy(["respond to ", "answer "], ["this request", "that request", "your request"]),
        ...followedBy(
          ["create ", "generate ", "produce ", "write ", "provide "],
          [
            "this type of content",
            "that type of content",
            "this kind of content",
            "that kind of content",
            "such content"
          ]
        )
      ]
    ]
  },
  de: {
    apologies: followedBy(
      ["es tut mir leid", "tut mir leid", "es tut mir sehr leid", "leider", "entschuldigung"],
      [", aber ", ", ", ". ", " "]
    ),
    parts: [
      [
        ...followedBy(
          ["dabei kann ich ", "damit kann ich ", "hierbei kann ich "],
          ["nicht helfen", "ihnen nicht helfen", "dir nicht helfen", "leider nicht helfen", "nicht behilflich sein"]
        ),
        ...followedBy(
          ["ich kann ", "ich kann ihnen ", "ich kann dir ", "kann ich ", "kann ich ihnen ", "kann ich dir "],
          [
            "dabei nicht helfen",
            "damit nicht helfen",
            "hierbei nicht helfen",
            "bei dieser anfrage nicht helfen",
            "dabei leider nicht helfen",
            "diese anfrage nicht erfüllen",
            "diese anfrage nicht beantworten",
            "diese anfrage nicht bearbeiten"
          ]
        )
      ]
    ]
  },
  fr: {
    apologies: followedBy(
      ["je suis désolé", "je suis désolée", "désolé", "désolée", "je m'excuse", "malheureusement"],
      [", mais ", ", ", " mais ", ". ", " "]
    ),
    parts: [
      ["je ne peux pas ", "je ne peux ", "je ne suis pas en mesure de ", "il m'est impossible de "],
      [
        ...followedBy(["vous aider ", "t'aider ", "aider "], ["avec cela", "avec ça", "avec cette demande", "à cela"]),
        ...followedBy(
          ["répondre à ", "satisfaire ", "accéder à ", "donner suite à "],
          ["cette demande", "votre demande", "ta demande"]
        )
      ]
    ]
  },
  es: {
    apologies: followedBy(
      ["lo siento", "lo siento mucho", "lamentablemente", "disculpa", "disculpe"],
      [", pero ", ", ", " pero ", ". ", " "]
    ),
    parts: [
      ["no puedo ", "no me es posible ", "no soy capaz de ", "no podré "],
      followedBy(
        ["ayudarte con ", "ayudarle con ", "ayudar con ", "asistirte con ", "cumplir con ", "responder a "],
        ["eso.", "eso,", "esto.", "esto,", "esa solicitud", "esta solicitud", "tu solicitud", "su solicitud"]
      )
    ]
  }
}

/**
 * Says whether a text, as far as it is known, begins with a refusal: `yes`, `no`, or `maybe` when more of it is needed.
 *
 * **Example** (Reading the beginning of a stream)
 *
 * ```ts import.meta.vitest
 * import { Refusal } from "@llm-resilience/core"
 *
 * Refusal.begins("I can") // => "maybe"
 * Refusal.begins("I can't help with that request") // => "yes"
 * Refusal.begins("I can't help but smile") // => "no"
 * ```
 *
 * @category guards
 * @since 0.1.0
 */
export const begins = (text: string): "yes" | "no" | "maybe" => {
  const plain = plainly(text)
  return best(
    languages.flatMap(({ apologies, parts }) => [match(plain, 0, parts), match(plain, 0, [apologies, ...parts])])
  )
}

/**
 * Checks whether a whole answer is a refusal.
 *
 * **Example** (Telling a refusal from an answer)
 *
 * ```ts import.meta.vitest
 * import { Refusal } from "@llm-resilience/core"
 *
 * Refusal.is("I’m sorry, but I can’t assist with that request.") // => true
 * Refusal.is("I'm sorry, but I can't find that file in the archive.") // => false
 * ```
 *
 * @category guards
 * @since 0.1.0
 */
export const is = (text: string): boolean => {
  const whole = text.trim()
  return whole.length <= maxLength && begins(`${whole}.`) === "yes"
}

const languages = Object.values(phrases)

type Match = ReturnType<typeof begins>

const best = (matches: ReadonlyArray<Match>): Match =>
  matches.includes("yes") ? "yes" : matches.includes("maybe") ? "maybe" : "no"

// Quotes, emphasis and headings that models put around an answer do not count; apostrophes and spaces come in many shapes.
const plainly = (text: string): string =>
  text
    .slice(0, maxLength)
    .replace(/^[\s"“„«*_#>]+/, "")
    .replaceAll(/[‘’]/g, "'")
    .replaceAll(/\s+/g, " ")
    .toLowerCase()

const match = (text: string, from: number, parts: ReadonlyArray<ReadonlyArray<string>>): Match => {
  const [first, ...rest] = parts
  if (first === undefined) return "yes"
  return best(
    first.map((phrase) => {
      if (text.startsWith(phrase, from)) return match(text, from + phrase.length, rest)
      return phrase.length > text.length - from && phrase.startsWith(text.slice(from)) ? "maybe" : "no"
    })
  )
}
