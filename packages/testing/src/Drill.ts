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
import type { ResilienceEvent } from "@llm-resilience/core/ResilienceEvent"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Yaml from "effect/encoding/Yaml"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Alert from "./Alert.ts"
import * as Chaos from "./Chaos.ts"
import * as DrillReport from "./DrillReport.ts"
import { dice, logNormal } from "./internal/dice.ts"
import * as Mistakes from "./internal/drillMistakes.ts"
import * as Shape from "./internal/drillShape.ts"
import { monotonic } from "./internal/monotonic.ts"
import * as VirtualTime from "./VirtualTime.ts"

/**
 * Schema of a fault in a drill: `error` with a kind and perhaps `retryAfter`, `latency`, `slowTokens`, `output`, or `hang`.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Fault = Shape.inFile.fault

/**
 * Schema of a {@link Drill}, as a file holds it.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Drill = Shape.inFile.drill

/**
 * A drill.
 *
 * **Details**
 *
 * - `traffic`: a request `every` so often, for so long, each with a `deadline` (20 s by default) and one of so many `questions` (5 by default).
 * - `steps`: what happens to which provider, by its id, and when. A step without `fault` heals it. Times count from the start of the drill.
 * - `expectations`: what has to be true in the end, between `after` and `until`.
 *   - `answered`: the share of requests that got an answer, from whomever.
 *   - `share`: the share of answers that came from the provider with this id (or from the `cache`).
 *   - `latency`: a percentile of the time until the answer.
 *   - `alert`: the rule of this name fires `within` so long `of` this moment.
 *   - `metric`: so many events of this name (see `ResilienceEvent`) were counted.
 *   - `log`: a line of the log contains this text.
 *   - `notice`: users were told this (see `Notice`).
 *
 * @category models
 * @since 0.1.0
 */
export type Drill = typeof Drill.Type

/**
 * A drill as a program writes it: every time is a `Duration.Input`, such as `"10 seconds"`.
 *
 * @category models
 * @since 0.1.0
 */
export type Input = typeof Shape.inCode.drill.Encoded

/**
 * Error raised when a text or a value is no drill, or none for this application; the message has a line for each mistake.
 *
 * @category errors
 * @since 0.1.0
 */
export class DrillInvalid extends Schema.TaggedError<DrillInvalid>("@llm-resilience/testing/Drill/DrillInvalid")(
  "DrillInvalid",
  { message: Schema.String }
) {}

/**
 * Error raised when another drill runs against the same service, or with the same chaos.
 *
 * @category errors
 * @since 0.1.0
 */
export class TargetBusy extends Schema.TaggedError<TargetBusy>("@llm-resilience/testing/Drill/TargetBusy")(
  "TargetBusy",
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
    Effect.try({ try: () => Yaml.parse(yaml), catch: (cause) => invalid("read", [unreadable(yaml, cause)]) }),
    (input) => checked(input, "read", decodeFile, Shape.inFile)
  )

const decodeFile = Schema.decodeUnknownEffect(Schema.toCodecJson(Drill), Shape.strict)
const decodeCode = Schema.decodeUnknownEffect(Shape.inCode.drill, Shape.strict)

const checked = (
  input: unknown,
  use: "read" | "run",
  decode: typeof decodeFile,
  form: typeof Shape.inFile | typeof Shape.inCode
): Effect.Effect<Drill, DrillInvalid> =>
  decode(input).pipe(
    Effect.mapError(({ issue }) => invalid(use, Mistakes.ofForm(issue, input, form))),
    Effect.flatMap((drill) => {
      const lines = Mistakes.ofSense(drill)
      return lines.length === 0 ? Effect.succeed(drill) : Effect.fail(invalid(use, lines))
    })
  )

const invalid = (use: "read" | "run", lines: ReadonlyArray<string>): DrillInvalid =>
  new DrillInvalid({ message: `The drill cannot be ${use}:\n${lines.map((line) => `  ${line}`).join("\n")}` })

// The parser does not always say where. What can be read up to a line, but not with it, went wrong there.
const unreadable = (yaml: string, cause: unknown): string => {
  const lines = yaml.split("\n")
  const isYaml = (count: number): boolean => {
    try {
      Yaml.parse(lines.slice(0, count).join("\n"))
      return true
    } catch {
      return false
    }
  }
  let read = lines.length - 1
  while (read > 0 && !isYaml(read)) read--
  const what = cause instanceof Error ? cause.message.replace(/ at (?:flow offset|line) \d+$/, "") : "it is not YAML"
  return `line ${read + 1}: ${what}`
}

/**
 * Gives the providers of a drill other names, in its steps, shares and lines of the log.
 *
 * **When to use**
 *
 * Use it for the drills of `Drills`, which name `primary` and `secondary`, with an application whose providers have ids of their own.
 *
 * **Example** (A ready drill for other providers)
 *
 * ```ts import.meta.vitest
 * import { Drill, Drills } from "@llm-resilience/testing"
 *
 * const drill = Drill.rename(Drills.primaryOutage, { primary: "anthropic", secondary: "openai" })
 *
 * drill.steps.map(({ provider }) => provider) // => ["anthropic", "anthropic"]
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const rename = (drill: Drill, names: { readonly [provider: string]: string }): Drill => {
  const renamed = (name: string): string => (Object.hasOwn(names, name) ? (names[name] ?? name) : name)
  return {
    ...drill,
    steps: drill.steps.map((step) => ({ ...step, provider: renamed(step.provider) })),
    expectations: drill.expectations.map((expectation) =>
      "share" in expectation
        ? { ...expectation, share: renamed(expectation.share) }
        : "log" in expectation
          ? { ...expectation, log: expectation.log.replaceAll(/[\w./-]+/g, renamed) }
          : expectation
    )
  }
}

/**
 * What a drill runs against: an application, and the chaos around its providers, by the ids of these providers.
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
 * Before anything runs it fails with {@link DrillInvalid} for what makes no sense (a step after the end of the traffic, an expectation that is
 * always met) and for names that nobody has: a provider without chaos, chaos or a share of a provider that is no step of the service, an alert
 * that is not among the `alerts`. It fails with {@link TargetBusy} while another drill runs against the same target.
 *
 * **Example** (A drill in code)
 *
 * ```ts import.meta.vitest
 * import { Drill } from "@llm-resilience/testing"
 *
 * const drill: Drill.Input = {
 *   name: "silence",
 *   about: "The primary accepts calls and never answers.",
 *   traffic: { every: "200 millis", for: "30 seconds" },
 *   steps: [
 *     { at: "5 seconds", provider: "primary", fault: { hang: true } },
 *     { at: "15 seconds", provider: "primary" }
 *   ],
 *   expectations: [{ answered: 1 }, { latency: "p99", atMost: "10 seconds" }]
 * }
 *
 * Drill.rehearse(drill).passed // => true
 * ```
 *
 * @category running
 * @since 0.1.0
 */
export const run = (
  drill: Input,
  target: Target,
  options?: Options
): Effect.Effect<DrillReport.DrillReport, DrillInvalid | TargetBusy> =>
  Effect.map(record(drill, target, options), DrillReport.make)

const record = (
  input: Input,
  target: Target,
  options?: Options
): Effect.Effect<DrillReport.Recording, DrillInvalid | TargetBusy> =>
  Effect.scoped(
    Effect.gen(function* () {
      const drill = yield* checked(input, "run", decodeCode, Shape.inCode)
      const alerts = options?.alerts ?? Alert.defaults
      // A chain within the chain has a status for each of its steps, and is known by its circuit.
      const status = yield* target.service.status
      const unknown = Mistakes.ofNames(drill, {
        chaos: Object.keys(target.chaos),
        providers: [...new Set([...status.map(({ provider }) => provider), ...target.service.circuits.keys()])],
        alerts: alerts.map(({ name }) => name)
      })
      if (unknown.length > 0) return yield* invalid("run", unknown)
      yield* reserve(target)
      const start = monotonic(yield* Clock.Clock)
      const now = Clock.clockWith((clock) => Effect.succeed(monotonic(clock) - start))
      const events: Array<Alert.Noted> = []
      const acts: Array<DrillReport.Line> = []
      const news = newsOf()
      yield* Effect.addFinalizer(() => Effect.forEach(Object.values(target.chaos), (chaos) => chaos.setRules([])))
      yield* target.service.events.pipe(
        Stream.runForEach((event) =>
          Effect.map(now, (at) => {
            events.push({ at, event })
            const text = news(event)
            if (text !== undefined) options?.onProgress?.({ at, text })
          })
        ),
        Effect.forkScoped({ startImmediately: true })
      )
      // One after the other, so that steps of the same moment come in the order in which they were written.
      const direct = Effect.forEach(
        inOrder(drill.steps),
        (step) =>
          Effect.gen(function* () {
            const wait = Duration.toMillis(step.at) - (yield* now)
            if (wait > 0) yield* Effect.sleep(wait)
            const line = { at: yield* now, text: actOf(step) }
            acts.push(line)
            options?.onProgress?.(line)
            const rule = ruleOf(step)
            yield* target.chaos[step.provider]?.setRules(rule === undefined ? [] : [rule]) ?? Effect.void
          }),
        { discard: true }
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
      return { drill, events, acts, until: yield* now, alerts }
    })
  )

// What is worth a line while it happens; of the requests that are lost the first ten, as in the report.
const newsOf = (): ((event: ResilienceEvent) => string | undefined) => {
  let lost = 0
  return (event) =>
    event._tag === "CircuitChanged" || event._tag === "CooledDown" || (event._tag === "RequestFailed" && lost++ < 10)
      ? DrillReport.tell(event)
      : undefined
}

// Chaos has one set of rules and the figures are of all requests: two drills at once would judge each other's incident.
const reserve = (target: Target): Effect.Effect<void, TargetBusy, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.suspend(() => {
      const parts = [target.service, ...Object.values(target.chaos)]
      if (parts.some((part) => busy.has(part))) {
        return Effect.fail(new TargetBusy({ message: "Another drill runs against this application; wait for its end" }))
      }
      for (const part of parts) busy.add(part)
      return Effect.succeed(parts)
    }),
    (parts) =>
      Effect.sync(() => {
        for (const part of parts) busy.delete(part)
      })
  )

const busy = new WeakSet<object>()

type Step = Drill["steps"][number]

const inOrder = (steps: ReadonlyArray<Step>): ReadonlyArray<Step> =>
  steps.toSorted((one, other) => Duration.toMillis(one.at) - Duration.toMillis(other.at))

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
 * Runs a drill in virtual time, against the chain of {@link rehearsal} unless there is another `target`. Takes milliseconds.
 *
 * **Details**
 *
 * It throws what {@link run} fails with, and an `Error` when the drill cannot end.
 *
 * **Gotchas**
 *
 * In virtual time a promise that is really waited for (`fetch`, a socket, `setTimeout`) never comes, and every request runs into its timeouts.
 * The `remarks` of the report say so when nothing that was asked came back.
 *
 * @category running
 * @since 0.1.0
 */
export const rehearse = (
  drill: Input,
  options?: Options & {
    readonly seed?: number | undefined
    readonly target?: Effect.Effect<Target, never, Scope.Scope> | undefined
  }
): DrillReport.DrillReport => {
  const seed = options?.seed ?? 1
  const program = Effect.scoped(
    Effect.flatMap(options?.target ?? rehearsal(seed), (target) => record(drill, target, options))
  )
  const ending = VirtualTime.make({ seed }).run(program)
  if (ending._tag === "Deadlock") throw new Error(`Drill.rehearse: nothing can ever happen again. ${onlyTheClock}`)
  if (ending._tag === "Livelock") throw new Error("Drill.rehearse: something is busy for ever without time passing")
  if (ending.exit._tag === "Failure") throw Cause.squash(ending.exit.cause)
  const recorded = ending.exit.value
  return DrillReport.make({ ...recorded, remarks: nothingCame(recorded) ? [onlyTheClock] : [] })
}

const onlyTheClock =
  "Nothing that was asked came back. In virtual time a promise that is really waited for (fetch, a socket, setTimeout) never comes: " +
  "take such providers to Drill.run on the real clock, or others that wait for nothing but the clock of Effect."

// Every call that began while its provider had no fault ended by nothing but our own timeouts.
const nothingCame = ({ drill, events }: DrillReport.Recording): boolean => {
  const steps = inOrder(drill.steps)
  const isWell = (id: string, at: number): boolean =>
    steps.findLast((step) => step.provider === id && Duration.toMillis(step.at) <= at)?.fault === undefined
  const calls = events.flatMap(({ at, event }) =>
    event._tag === "Called" && isWell(event.provider, at - Duration.toMillis(event.duration)) ? [event] : []
  )
  return (
    calls.length > 0 &&
    calls.every(({ error, outcome }) => outcome !== "succeeded" && (error === undefined || error._tag === "Timeout")) &&
    events.every(({ event }) => event._tag !== "RequestAnswered")
  )
}

/**
 * Builds the application of {@link rehearse}, for a drill in real time.
 *
 * **Details**
 *
 * `primary` and `secondary`, which answer after 400 ms and 700 ms (the median; one of a hundred takes four times as long), each with the standard
 * policy but for two settings: an attempt may take 5 s (30 s by default), and an open circuit is tried again after 10 s (60 s by default). An
 * emergency cache is around both. Each drill of `Drills` says which of these three it presupposes.
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
