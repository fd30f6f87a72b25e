/**
 * A game day: an incident that is rehearsed on purpose, to see whether the chain does what everybody believes it does.
 *
 * A drill is data, in code or YAML: the traffic, steps ("at 10 s the primary is out"), and expectations ("at least 99.9 % answered"). It runs
 * against an application whose providers have {@link Chaos} around them, on whatever clock the application runs: a virtual one in
 * milliseconds, or the real one with your dashboards open. {@link rehearse} brings a chain of its own.
 *
 * `Drills` has six that are ready to use, `DrillReport` makes Markdown and JSON of what happened.
 *
 * @since 0.1.0
 */
import * as EmergencyCache from "@llm-resilience/core/EmergencyCache"
import * as LlmRequest from "@llm-resilience/core/LlmRequest"
import * as LlmResilience from "@llm-resilience/core/LlmResilience"
import * as LlmResponse from "@llm-resilience/core/LlmResponse"
import * as Policy from "@llm-resilience/core/Policy"
import * as Provider from "@llm-resilience/core/Provider"
import * as ProviderError from "@llm-resilience/core/ProviderError"
import * as ResilienceConfig from "@llm-resilience/core/ResilienceConfig"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Yaml from "effect/encoding/Yaml"
import * as Redacted from "effect/Redacted"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type * as Alert from "./Alert.ts"
import * as Chaos from "./Chaos.ts"
import * as DrillReport from "./DrillReport.ts"
import { dice, logNormal } from "./internal/dice.ts"
import { monotonic } from "./internal/monotonic.ts"
import * as VirtualTime from "./VirtualTime.ts"

const Span = ResilienceConfig.DurationText
const Share = Schema.Finite.check(Schema.makeFilter((n: number) => n >= 0 && n <= 1))
const when = { after: Schema.optional(Span), until: Schema.optional(Span) }

/**
 * Schema of a fault in a drill: `error` with a kind and perhaps `retryAfter`, `latency`, `slowTokens`, `output`, or `hang`.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Fault = Schema.Union([
  Schema.Struct({
    error: Schema.Union([Schema.Literals(["Timeout", "RateLimited"]), ProviderError.Reason]),
    retryAfter: Schema.optional(Span)
  }),
  Schema.Struct({ latency: Span }),
  Schema.Struct({ slowTokens: Span }),
  Schema.Struct({ output: Schema.Literals(["empty", "looping", "refusing", "corrupted"]) }),
  Schema.Struct({ hang: Schema.Literal(true) })
])

const step = {
  at: Span,
  provider: Schema.NonEmptyString,
  /** None of it heals the provider. */
  fault: Schema.optional(Fault),
  rate: Schema.optional(Share),
  /** How long it is there and how often it comes back; from `at` on for ever by default. */
  for: Schema.optional(Span),
  every: Schema.optional(Span)
}

/**
 * Schema of a {@link Drill}.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Drill = Schema.Struct({
  name: Schema.NonEmptyString,
  about: Schema.String,
  traffic: Schema.Struct({
    every: Span,
    for: Span,
    deadline: Schema.optional(Span),
    questions: Schema.optional(Schema.Int.check(Schema.makeFilter((n: number) => n >= 1)))
  }),
  steps: Schema.Array(Schema.Struct(step)),
  expectations: Schema.Array(
    Schema.Union([
      Schema.Struct({ answered: Share, ...when }),
      Schema.Struct({ share: Schema.NonEmptyString, atLeast: Share, ...when }),
      Schema.Struct({ latency: Schema.Literals(["p50", "p95", "p99"]), atMost: Span, ...when }),
      Schema.Struct({ alert: Schema.NonEmptyString, within: Span, of: Span }),
      Schema.Struct({ metric: Schema.NonEmptyString, atLeast: Schema.Int, ...when }),
      Schema.Struct({ log: Schema.NonEmptyString, ...when }),
      Schema.Struct({ notice: Schema.NonEmptyString, ...when })
    ])
  )
})

/**
 * A drill.
 *
 * **Details**
 *
 * - `traffic`: a request `every` so often, for so long, each with a `deadline` (20 s by default) and one of so many `questions` (5 by default).
 * - `steps`: what happens to which provider, and when. A step without `fault` heals it. Times count from the start of the drill.
 * - `expectations`: what has to be true in the end, between `after` and `until`.
 *   - `answered`: the share of requests that got an answer, from whomever.
 *   - `share`: the share of answers that came from this provider (or from the `cache`).
 *   - `latency`: a percentile of the time until the answer.
 *   - `alert`: the rule of this name fires `within` so long `of` this moment.
 *   - `metric`: so many events of this name were counted.
 *   - `log`: a line of the log contains this text.
 *   - `notice`: users were told this.
 *
 * @category models
 * @since 0.1.0
 */
export type Drill = typeof Drill.Type

const decode = Schema.decodeUnknownEffect(Schema.toCodecJson(Drill), { errors: "all", onExcessProperty: "error" })

/**
 * Error raised when a text is no drill; the message has a line for each mistake.
 *
 * @category errors
 * @since 0.1.0
 */
export class DrillInvalid extends Schema.TaggedError<DrillInvalid>("@llm-resilience/testing/Drill/DrillInvalid")(
  "DrillInvalid",
  { message: Schema.String }
) {}

/**
 * Reads a drill from YAML.
 *
 * **Example** (Ten lines of an incident)
 *
 * ```ts import.meta.vitest
 * import { Drill } from "@llm-resilience/testing"
 * import { Effect } from "effect"
 *
 * const drill = Drill.parse(`
 * name: short outage
 * about: The primary is gone for half a minute.
 * traffic: { every: 500ms, for: 60s }
 * steps:
 *   - { at: 10s, provider: primary, fault: { error: Network } }
 *   - { at: 40s, provider: primary }
 * expectations:
 *   - answered: 0.999
 *   - { share: secondary, atLeast: 0.9, after: 15s, until: 40s }
 * `)
 * const report = Effect.runSync(Effect.map(drill, (drill) => Drill.rehearse(drill)))
 *
 * report.passed // => true
 * report.figures.requests // => 120
 * ```
 *
 * @category conversions
 * @since 0.1.0
 */
export const parse = (yaml: string): Effect.Effect<Drill, DrillInvalid> =>
  Effect.flatMap(
    Effect.try({
      try: () => Yaml.parse(yaml),
      catch: (cause) => invalid([cause instanceof Error ? cause.message : "it is not YAML"])
    }),
    (input) => Effect.mapError(decode(input), ({ issue }) => invalid(mistakes(issue, input)))
  )

const invalid = (lines: ReadonlyArray<string>): DrillInvalid =>
  new DrillInvalid({ message: `The drill cannot be read:\n${lines.map((line) => `  ${line}`).join("\n")}` })

const classify = SchemaIssue.makeFormatterStandardSchemaV1({
  leafHook: ({ _tag }) => _tag,
  checkHook: () => "InvalidValue"
})

// A fault and an expectation have several shapes. What does not fit any of them is one mistake, unless the value of a key is.
const mistakes = (issue: SchemaIssue.Issue, input: unknown): ReadonlyArray<string> => {
  const found = classify(issue).issues.map(({ message, path = [] }) => {
    const keys = path.map((segment): PropertyKey => (typeof segment === "object" ? segment.key : segment))
    const shaped = keys[0] === "expectations" ? 2 : keys[2] === "fault" ? 3 : Infinity
    return { keys, message, shape: keys.length > shaped ? keys.slice(0, shaped) : undefined }
  })
  const isValue = ({ message }: (typeof found)[number]) => message !== "UnexpectedKey" && message !== "MissingKey"
  const lines = found.map((one) => {
    const { keys, message, shape } = one
    if (shape === undefined)
      return line(keys, message === "UnexpectedKey" ? "a key that nobody knows" : undefined, input)
    if (isValue(one)) return line(keys, undefined, input)
    const others = found.filter(({ keys }) => shape.every((key, index) => keys[index] === key))
    return others.some(isValue) ? undefined : line(shape, undefined, input)
  })
  return [...new Set(lines.filter((line) => line !== undefined))]
}

const line = (keys: ReadonlyArray<PropertyKey>, what: string | undefined, input: unknown): string => {
  const where = keys.map((key) => (typeof key === "number" ? `[${key}]` : `.${String(key)}`)).join("")
  const value = keys.reduce<unknown>(
    (value, key) => (Predicate.hasProperty(value, key) ? value[key] : undefined),
    input
  )
  return `${where.replace(/^\./, "") || "the drill"}: got ${what ?? ResilienceConfig.shown(value)}, expected ${expected(keys)}`
}

const expected = (keys: ReadonlyArray<PropertyKey>): string => {
  const key = keys.findLast((key) => typeof key === "string") ?? ""
  if (key === "expectations" && typeof keys.at(-1) === "number") {
    return "one of answered, share, latency, alert, metric, log and notice, with its own keys"
  }
  if (key === "latency" && keys[0] === "expectations") return "p50, p95 or p99"
  return meanings[key] ?? `one of ${Object.keys(keys.length > 1 ? step : Drill.fields).join(", ")}`
}

const span = "a duration such as 500ms, 10s or 2m"
const share = "a share from 0 to 1"
const text = "a text"
const meanings: { readonly [key: string]: string } = {
  name: text,
  about: text,
  provider: "the name of a provider",
  traffic: "every and for, perhaps deadline and questions",
  questions: "a whole number of at least 1",
  steps: "a list of at, provider and perhaps fault",
  fault: "one of error, latency, slowTokens, output and hang",
  error: `one of Timeout, RateLimited, ${ProviderError.Reason.literals.join(", ")}`,
  output: "empty, looping, refusing or corrupted",
  hang: "true",
  expectations: "a list of what has to be true",
  answered: share,
  atLeast: "a share from 0 to 1, of a metric a whole number",
  rate: share,
  ...Object.fromEntries(
    "every for deadline at after until within of atMost retryAfter latency slowTokens"
      .split(" ")
      .map((key) => [key, span])
  )
}

/**
 * What a drill runs against: an application, and the chaos around its providers, by the names that the drill uses.
 *
 * @category models
 * @since 0.1.0
 */
export interface Target {
  readonly service: LlmResilience.LlmResilience
  readonly chaos: { readonly [provider: string]: Chaos.Chaos }
}

/**
 * Options of {@link run}: the `alerts` that should fire ({@link Alert.defaults} unless given), and a function that is told what happens.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly alerts?: ReadonlyArray<Alert.Alert> | undefined
  readonly onProgress?: ((line: DrillReport.Line) => void) | undefined
}

/**
 * Runs a drill on the clock that is there, and judges it. All chaos is gone when it ends, however it ends.
 *
 * **Details**
 *
 * The drill makes its own requests beside those of the application; the figures are of all that the service sees meanwhile.
 *
 * @category running
 * @since 0.1.0
 */
export const run = (drill: Drill, target: Target, options?: Options): Effect.Effect<DrillReport.DrillReport> =>
  Effect.scoped(
    Effect.gen(function* () {
      const unknown = drill.steps.find(({ provider }) => target.chaos[provider] === undefined)
      if (unknown !== undefined) {
        throw new RangeError(`Drill.run: there is no chaos around "${unknown.provider}", which the drill names`)
      }
      const start = monotonic(yield* Clock.Clock)
      const now = Clock.clockWith((clock) => Effect.succeed(monotonic(clock) - start))
      const events: Array<Alert.Noted> = []
      const acts: Array<DrillReport.Line> = []
      yield* Effect.addFinalizer(() => Effect.forEach(Object.values(target.chaos), (chaos) => chaos.setRules([])))
      yield* target.service.events.pipe(
        Stream.runForEach((event) =>
          Effect.map(now, (at) => {
            events.push({ at, event })
            const text = DrillReport.tell(event)
            if (text !== undefined && event._tag === "CircuitChanged") options?.onProgress?.({ at, text })
          })
        ),
        Effect.forkScoped({ startImmediately: true })
      )
      const direct = Effect.forEach(
        drill.steps,
        (step) =>
          Effect.gen(function* () {
            yield* Effect.sleep(step.at)
            const line = { at: yield* now, text: actOf(step) }
            acts.push(line)
            options?.onProgress?.(line)
            const rule = ruleOf(step)
            yield* target.chaos[step.provider]?.setRules(rule === undefined ? [] : [rule]) ?? Effect.void
          }),
        { concurrency: "unbounded", discard: true }
      )
      const { deadline, every, questions = 5 } = drill.traffic
      const count = Math.floor(Duration.toMillis(drill.traffic.for) / Duration.toMillis(every))
      const ask = (index: number) =>
        Effect.andThen(
          Effect.sleep(Duration.times(every, index)),
          Effect.ignore(
            target.service.generate(
              LlmRequest.make({
                prompt: `What is the answer to question ${index % questions}?`,
                deadline: deadline ?? "20 seconds"
              })
            )
          )
        )
      yield* Effect.all(
        [
          direct,
          Effect.forEach(
            Array.from({ length: count }, (_, index) => index),
            ask,
            { concurrency: "unbounded", discard: true }
          )
        ],
        {
          concurrency: 2
        }
      )
      // What was said last may still be on its way to us.
      yield* Effect.sleep("1 second")
      return DrillReport.make({ drill, events, acts, until: yield* now, alerts: options?.alerts })
    })
  )

type Step = Drill["steps"][number]

const ruleOf = (step: Step): Chaos.Rule | undefined =>
  step.fault === undefined
    ? undefined
    : { fault: faultOf(step.fault), rate: step.rate, during: { for: step.for, every: step.every } }

const faultOf = (fault: NonNullable<Step["fault"]>): Chaos.Fault => {
  if ("error" in fault) return Chaos.error(fault.error, { retryAfter: fault.retryAfter })
  if ("latency" in fault) return Chaos.latency(fault.latency)
  if ("slowTokens" in fault) return Chaos.slowTokens(fault.slowTokens)
  return "hang" in fault ? Chaos.hang : Chaos[fault.output]
}

const actOf = ({ every, fault, for: length, provider, rate }: Step): string => {
  if (fault === undefined) return `${provider} is well again`
  const what =
    "error" in fault
      ? `fails with ${fault.error}${fault.retryAfter === undefined ? "" : ` (Retry-After ${Duration.format(fault.retryAfter)})`}`
      : "latency" in fault
        ? `takes ${Duration.format(fault.latency)} longer`
        : "slowTokens" in fault
          ? `needs ${Duration.format(fault.slowTokens)} for each word`
          : "hang" in fault
            ? "hangs"
            : `gives ${fault.output} answers`
  const share = rate === undefined || rate === 1 ? "" : ` in ${Math.round(rate * 100)} % of its calls`
  const again =
    every === undefined || length === undefined ? "" : `, ${Duration.format(length)} of every ${Duration.format(every)}`
  return `${provider} ${what}${share}${again}`
}

/**
 * Runs a drill in virtual time against a chain of its own: `primary` and `secondary`, each with the standard policy and an attempt timeout of 5 s,
 * and an emergency cache around them. Takes milliseconds.
 *
 * **Details**
 *
 * `target` builds another application instead; its providers must not wait for anything but the clock of Effect.
 *
 * @category running
 * @since 0.1.0
 */
export const rehearse = (
  drill: Drill,
  options?: Options & {
    readonly seed?: number | undefined
    readonly target?: Effect.Effect<Target, never, Scope.Scope> | undefined
  }
): DrillReport.DrillReport => {
  const seed = options?.seed ?? 1
  const program = Effect.scoped(
    Effect.flatMap(options?.target ?? rehearsal(seed), (target) => run(drill, target, options))
  )
  const ending = VirtualTime.make({ seed }).run(program)
  if (ending._tag !== "Ended") throw new Error(`Drill.rehearse: the drill ended in a ${ending._tag.toLowerCase()}`)
  if (ending.exit._tag === "Failure") throw new Error("Drill.rehearse: the drill died", { cause: ending.exit.cause })
  return ending.exit.value
}

/**
 * Builds the application of {@link rehearse}, for a drill in real time.
 *
 * @category constructors
 * @since 0.1.0
 */
export const rehearsal = (seed = 1): Effect.Effect<Target, never, Scope.Scope> =>
  Effect.gen(function* () {
    const chaos = {
      primary: yield* Chaos.make({ seed }),
      secondary: yield* Chaos.make({ seed: seed + 1 })
    }
    const standard = LlmResilience.standard({
      timeouts: { attempt: "5 seconds" },
      circuitBreaker: { openFor: "10 seconds" }
    })
    const step = (name: keyof typeof chaos, millis: number) => ({
      provider: model(name, millis, seed),
      policy: Policy.all([standard, chaos[name].guard])
    })
    const service = yield* Effect.provide(
      LlmResilience.make({
        steps: [step("primary", 400), step("secondary", 700)],
        around: EmergencyCache.policy()
      }),
      EmergencyCache.layerMemory({ secret: Redacted.make("nothing in a rehearsal is secret") })
    )
    return { service, chaos }
  })

const model = (id: string, millis: number, seed: number): Provider.Provider => {
  const draw = logNormal(millis, 4 * millis)
  const d = dice(seed, millis)
  return Provider.make({
    id,
    model: `${id}-model`,
    generate: () =>
      Effect.delay(
        Effect.sync(() => ({ content: LlmResponse.textContent(`An answer from the ${id}.`) })),
        Duration.millis(draw(d))
      )
  })
}
