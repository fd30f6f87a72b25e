import * as ProviderError from "@llm-resilience/core/ProviderError"
import * as ResilienceConfig from "@llm-resilience/core/ResilienceConfig"
import * as Duration from "effect/Duration"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import type { Drill } from "../Drill.ts"
import * as Shape from "./drillShape.ts"

type Keys = ReadonlyArray<PropertyKey>
type Form = typeof Shape.inFile | typeof Shape.inCode

/** Says what is wrong with the form of a drill: a line for each mistake, with where, what stands there and what should. */
export const ofForm = (issue: SchemaIssue.Issue, input: unknown, form: Form): ReadonlyArray<string> => {
  const lines = found(issue).flatMap(({ keys, what }) => {
    const choice = choiceAt(keys, form)
    if (choice !== undefined) return ofChoice(choice, valueAt(input, choice.keys))
    const fields = keys[0] === "traffic" ? form.traffic.fields : form.step.fields
    return [line(keys, what, input, keys.length > 1 ? fields : form.drill.fields)]
  })
  return [...new Set(lines)]
}

const classify = SchemaIssue.makeFormatterStandardSchemaV1({
  leafHook: ({ _tag }) => _tag,
  checkHook: () => "InvalidValue"
})

const found = (issue: SchemaIssue.Issue) =>
  classify(issue).issues.map(({ message, path = [] }) => ({
    keys: path.map((segment): PropertyKey => (typeof segment === "object" ? segment.key : segment)),
    what: message
  }))

interface Choice {
  readonly keys: Keys
  readonly members: { readonly [key: string]: Schema.Decoder<unknown> & { readonly fields: object } }
  readonly expected: string
}

// A fault and an expectation have several shapes, and the key that is there says which one was meant.
const choiceAt = (keys: Keys, form: Form): Choice | undefined => {
  if (keys[0] === "expectations" && keys.length > 1) {
    const expected = `one of ${all(Object.keys(form.expectations))}, with its own keys`
    return { keys: keys.slice(0, 2), members: form.expectations, expected }
  }
  return keys[2] === "fault"
    ? { keys: keys.slice(0, 3), members: form.faults, expected: `one of ${all(Object.keys(form.faults))}` }
    : undefined
}

const ofChoice = ({ expected, keys, members }: Choice, value: unknown): ReadonlyArray<string> => {
  const meant = Object.keys(members).filter((key) => Predicate.isObject(value) && Object.hasOwn(value, key))
  const member = members[meant[0] ?? ""]
  if (meant.length > 1) return [said(keys, `${all(meant)} at once`, expected)]
  if (member === undefined) return [said(keys, shown(value), expected)]
  const result = Schema.decodeUnknownResult(Schema.toCodecJson(member), Shape.strict)(value)
  if (result._tag === "Success") return []
  return found(result.failure.issue).map((inner) =>
    line([...keys, ...inner.keys], inner.what, value, member.fields, inner.keys, meant[0])
  )
}

const line = (keys: Keys, what: string, input: unknown, siblings: object, within = keys, member?: string): string => {
  if (what === "UnexpectedKey") {
    return said(keys, "a key that nobody knows", `one of ${Object.keys(siblings).join(", ")}`)
  }
  const key = keys.findLast((key) => typeof key === "string") ?? ""
  const value = valueAt(input, within)
  const meaning = meanings[`${String(keys[0])} ${member} ${key}`] ?? meanings[key]
  if (meaning === span && isZero(value)) return said(keys, shown(value), "a duration longer than zero")
  const near = meaning !== undefined && typeof value === "string" ? closest(value, key) : ""
  return said(keys, shown(value), `${meaning ?? `one of ${Object.keys(siblings).join(", ")}`}${near}`)
}

const isZero = (value: unknown): boolean => {
  const duration = Shape.read(value)
  return duration !== undefined && !Duration.isPositive(duration)
}

const closest = (value: string, key: string): string => {
  const names = { metric: Shape.events, notice: Shape.notices, error: kinds }[key]
  return names === undefined ? "" : near(value, names)
}

const near = (value: string, names: ReadonlyArray<string>): string => {
  const name = ResilienceConfig.closest(value, names)
  return name === undefined ? "" : ` (did you mean "${name}"?)`
}

const all = (names: ReadonlyArray<string>): string =>
  names.length < 2 ? names.join() : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`

const said = (keys: Keys, got: string, expected: string): string => `${pathOf(keys)}: got ${got}, expected ${expected}`

const pathOf = (keys: Keys): string =>
  keys
    .map((key) => (typeof key === "number" ? `[${key}]` : `.${String(key)}`))
    .join("")
    .replace(/^\./, "") || "the drill"

const valueAt = (input: unknown, keys: Keys): unknown =>
  keys.reduce<unknown>((value, key) => (Predicate.hasProperty(value, key) ? value[key] : undefined), input)

const shown = (value: unknown): string =>
  Duration.isDuration(value)
    ? Duration.format(value)
    : typeof value === "bigint" || typeof value === "function" || typeof value === "symbol"
      ? String(value)
      : ResilienceConfig.shown(value)

const kinds = ["Timeout", "RateLimited", ...ProviderError.Reason.literals]
const span = "a duration such as 500ms, 10s or 2m"
const share = "a share above 0, up to 1"
const text = "a text"
const meanings: { readonly [key: string]: string } = {
  name: text,
  about: text,
  provider: "the name of a provider",
  traffic: "every and for, perhaps deadline and questions",
  questions: "a whole number of at least 1",
  steps: "a list of at, provider and perhaps fault",
  error: `one of ${kinds.join(", ")}`,
  output: "empty, looping, refusing or corrupted",
  hang: "true",
  expectations: "a list of what has to be true",
  answered: share,
  share: "the name of a provider, or cache",
  atLeast: share,
  "expectations metric atLeast": "a whole number of at least 1",
  "expectations latency latency": "p50, p95 or p99",
  metric: `one of ${Shape.events.join(", ")}`,
  notice: `one of ${Shape.notices.join(", ")}`,
  alert: "the name of an alert",
  log: text,
  rate: "a share from 0 to 1",
  ...Object.fromEntries(
    "every for deadline at after until within of atMost retryAfter latency slowTokens"
      .split(" ")
      .map((key) => [key, span])
  )
}

/** Says what is well formed in a drill and yet cannot be meant: what never happens, and what is true whatever happens. */
export const ofSense = ({ expectations, steps, traffic }: Drill): ReadonlyArray<string> => {
  const lines: Array<string> = []
  const wrong = (keys: Keys, got: Duration.Duration, expected: string) =>
    lines.push(said(keys, Duration.format(got), expected))
  const end = `traffic.for (${Duration.format(traffic.for)})`
  if (Duration.isGreaterThan(traffic.every, traffic.for)) {
    wrong(["traffic", "every"], traffic.every, `at most ${end}, or there is no request`)
  }
  steps.forEach(({ at, every, fault, for: length, rate }, index) => {
    const keys = ["steps", index]
    if (Duration.isGreaterThan(at, traffic.for)) wrong([...keys, "at"], at, `at most ${end}`)
    if (fault === undefined) {
      const idle = Object.entries({ rate, for: length, every }).find(([, value]) => value !== undefined)
      if (idle !== undefined) {
        lines.push(said([...keys, idle[0]], "it without a fault", "it beside a fault; a step without one heals"))
      }
    } else if (every !== undefined && length === undefined) {
      wrong([...keys, "every"], every, "for beside it, the time that the fault stays")
    } else if (every !== undefined && length !== undefined && !Duration.isLessThan(length, every)) {
      wrong([...keys, "for"], length, `less than every (${Duration.format(every)}), or the fault never goes`)
    }
  })
  expectations.forEach((expectation, index) => {
    const keys = ["expectations", index]
    if ("alert" in expectation) {
      if (Duration.isGreaterThan(expectation.of, traffic.for)) wrong([...keys, "of"], expectation.of, `at most ${end}`)
      return
    }
    const { after, until } = expectation
    if (after !== undefined && until !== undefined && !Duration.isGreaterThan(until, after)) {
      wrong([...keys, "until"], until, `more than after (${Duration.format(after)})`)
    }
  })
  if (expectations.length === 0) lines.push(said(["expectations"], "none", "at least one, or nothing can fail"))
  return lines
}

/** Says which names of a drill the application does not know. */
export const ofNames = (
  { expectations, steps }: Drill,
  known: {
    readonly chaos: ReadonlyArray<string>
    readonly providers: ReadonlyArray<string>
    readonly alerts: ReadonlyArray<string>
  }
): ReadonlyArray<string> => {
  const unknown = (keys: Keys, name: string, names: ReadonlyArray<string>): ReadonlyArray<string> =>
    names.includes(name)
      ? []
      : [said(keys, `"${name}", which is unknown`, `one of ${names.join(", ")}${near(name, names)}`)]
  return [
    ...known.chaos.flatMap((name) => unknown(["chaos", name], name, known.providers)),
    ...steps.flatMap(({ provider }, index) => unknown(["steps", index, "provider"], provider, known.chaos)),
    ...expectations.flatMap((expectation, index) =>
      "share" in expectation
        ? unknown(["expectations", index, "share"], expectation.share, [...known.providers, "cache"])
        : "alert" in expectation
          ? unknown(["expectations", index, "alert"], expectation.alert, known.alerts)
          : []
    )
  ]
}
