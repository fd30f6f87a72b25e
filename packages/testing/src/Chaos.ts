/**
 * Makes a provider fail on purpose: a policy like any other, around any provider, in tests and in production drills.
 *
 * Put it innermost, next to the provider, and everything around it has to cope: timeouts, breaker, retries, the chain. What it injects
 * is drawn from a seed, published as a `ChaosInjected` event, and stops at once when it is switched off.
 *
 * **Where it stands**
 *
 * Around the layer of a provider (`layer` of {@link Chaos}) it strikes all that goes to the provider: health checks, and the spans and metrics of single calls,
 * see the faults as well. As the innermost policy of a step it strikes the calls of users only; health checks ask the bare provider, and find it well.
 *
 * **Rules**
 *
 * A rule is a fault, how often it strikes (`rate`, always by default) and when (`during`, always by default). All rules are asked at every
 * call, in order, each by a draw of its own: latencies add up, and the first other fault that strikes is the one that happens. Two errors with a rate of
 * 0.3 strike half of the calls. Times of `during` count from the moment when the policy is set up.
 *
 * **Switching off**
 *
 * {@link Enabled} is read at every call: provide `false` around the calls that must be spared. {@link make} gives a handle that changes the
 * rules, or takes them all away, while the application runs.
 *
 * @since 0.1.0
 */
import type { LlmRequest } from "@llm-resilience/core/LlmRequest"
import * as LlmResponse from "@llm-resilience/core/LlmResponse"
import type * as Policy from "@llm-resilience/core/Policy"
import * as Provider from "@llm-resilience/core/Provider"
import type * as ProviderError from "@llm-resilience/core/ProviderError"
import * as ResilienceEvent from "@llm-resilience/core/ResilienceEvent"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { dice, type Dice, logNormal } from "./internal/dice.ts"
import { monotonic } from "./internal/monotonic.ts"
import { errorOf } from "./internal/errors.ts"
import { tokens } from "./internal/tokens.ts"

/**
 * What can go wrong. Build it with the constructors of this module.
 *
 * @category models
 * @since 0.1.0
 */
export type Fault =
  | {
      readonly _tag: "Error"
      readonly kind: ProviderError.Kind
      readonly retryAfter: Duration.Duration | undefined
    }
  | { readonly _tag: "Latency"; readonly millis: (d: Dice) => number }
  | { readonly _tag: "Hang" }
  | { readonly _tag: "Cut"; readonly afterParts: number }
  | { readonly _tag: "Stall"; readonly afterParts: number }
  | { readonly _tag: "SlowTokens"; readonly every: Duration.Duration }
  | { readonly _tag: "Output"; readonly name: string; readonly text: string }
  | { readonly _tag: "Corrupted" }

/**
 * A fault, how often and when.
 *
 * **Details**
 *
 * - `rate`: the share of calls that it strikes, 1 by default.
 * - `during`: from when on, for how long, and, if it comes back, how often. From the start and for ever by default.
 *
 * @category models
 * @since 0.1.0
 */
export interface Rule {
  readonly fault: Fault
  readonly rate?: number | undefined
  readonly during?: Window | undefined
}

/**
 * A span of time since the policy was set up.
 *
 * **Details**
 *
 * `every` brings back what lasts `for` a shorter time.
 *
 * @category models
 * @since 0.1.0
 */
export interface Window {
  readonly from?: Duration.Input | undefined
  readonly for?: Duration.Input | undefined
  readonly every?: Duration.Input | undefined
}

/**
 * Options of chaos: the rules, and the seed from which it is drawn what strikes whom (0 by default).
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly rules?: ReadonlyArray<Rule> | undefined
  readonly seed?: number | undefined
}

/**
 * Chaos that can be changed while it is in place.
 *
 * **Details**
 *
 * `guard` is the policy that puts it around a provider, `layer` puts it around the layer of one; several may share one. `setRules` replaces the rules from the next call on, and their times
 * count from then; an empty list is peace. `injected` counts what was injected so far.
 *
 * @category models
 * @since 0.1.0
 */
export interface Chaos {
  readonly guard: Policy.Policy
  readonly layer: <E, R>(provider: Layer.Layer<Provider.Provider, E, R>) => Layer.Layer<Provider.Provider, E, R>
  readonly setRules: (rules: ReadonlyArray<Rule>) => Effect.Effect<void>
  readonly injected: Effect.Effect<number>
}

/**
 * Whether chaos may strike; read at every call.
 *
 * **Example** (Sparing one call)
 *
 * ```ts import.meta.vitest
 * import { LlmRequest } from "@llm-resilience/core"
 * import { Chaos, ScriptedProvider } from "@llm-resilience/testing"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const model = yield* ScriptedProvider.make({ script: [ScriptedProvider.answer("Hello!")] })
 *   const shaken = yield* Chaos.policy({ rules: [{ fault: Chaos.error("ServerError") }] })(model)
 *   const ask = shaken.generate(LlmRequest.make({ prompt: "Hi" }))
 *   const struck = yield* Effect.flip(ask)
 *   const spared = yield* Effect.provideService(ask, Chaos.Enabled, false)
 *   return [struck._tag, spared.text]
 * })
 *
 * await Effect.runPromise(Effect.scoped(program)) // => ["APIError", "Hello!"]
 * ```
 *
 * @category references
 * @since 0.1.0
 */
export const Enabled = Context.Reference<boolean>("@llm-resilience/testing/Chaos/Enabled", {
  defaultValue: () => true
})

/**
 * Creates the policy.
 *
 * **Example** (An outage of thirty seconds)
 *
 * ```ts import.meta.vitest
 * import { LlmResilience, Policy } from "@llm-resilience/core"
 * import { Chaos } from "@llm-resilience/testing"
 *
 * const policy = Policy.all([
 *   LlmResilience.standard(),
 *   Chaos.policy({
 *     seed: 1,
 *     rules: [
 *       { fault: Chaos.error("Network"), during: { from: "10 seconds", for: "30 seconds" } },
 *       { fault: Chaos.latency({ median: "200 millis", p99: "4 seconds" }), rate: 0.2 }
 *     ]
 *   })
 * ])
 *
 * typeof policy // => "function"
 * ```
 *
 * @category policies
 * @since 0.1.0
 */
export const policy =
  (options?: Options): Policy.Policy =>
  (self) =>
    Effect.flatMap(make(options), (chaos) => chaos.guard(self))

/**
 * Creates chaos with a handle.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options?: Options): Effect.Effect<Chaos> => {
  const seed = options?.seed ?? 0
  if (!Number.isSafeInteger(seed)) throw new RangeError(`Chaos: seed must be an integer, got ${seed}`)
  const first = (options?.rules ?? []).map(checked)
  return Effect.gen(function* () {
    const clock = yield* Clock.Clock
    let rules = first
    let since = monotonic(clock)
    let calls = 0
    let injected = 0

    const struck = (hub: ResilienceEvent.Hub, provider: string, request: LlmRequest): Effect.Effect<Struck> =>
      Effect.withFiber((fiber) => {
        const d = dice(seed, calls++)
        if (rules.length === 0 || !fiber.getRef(Enabled)) return Effect.succeed(spared)
        const elapsed = monotonic(fiber.getRef(Clock.Clock)) - since
        let millis = 0
        let found: Exclude<Fault, { readonly _tag: "Latency" }> | undefined
        for (const { during, fault, rate } of rules) {
          const strikes = d.next() < rate && during(elapsed)
          const delay = fault._tag === "Latency" ? fault.millis(d) : 0
          if (!strikes || found !== undefined || (fault._tag === "Latency" && delay <= 0)) continue
          if (fault._tag === "Latency") millis += delay
          else found = fault
          injected++
          if (hub.active()) hub.publish({ _tag: "ChaosInjected", request: request.id, provider, fault: nameOf(fault) })
        }
        return Effect.succeed({ millis, fault: found, seed: d.int(0, 0x7fffffff) })
      })

    const guard: Policy.Policy = (self) =>
      Effect.map(ResilienceEvent.CurrentHub, (hub) => ({
        ...self,
        keepsDeadline: false,
        generate: (request) =>
          Effect.flatMap(struck(hub, self.id, request), (struck) =>
            struck === spared ? self.generate(request) : after(struck.millis, whole(self, request, struck))
          ),
        stream: (request) =>
          Stream.unwrap(
            Effect.flatMap(struck(hub, self.id, request), (struck) =>
              struck === spared
                ? Effect.succeed(self.stream(request))
                : after(struck.millis, Effect.succeed(streamed(self, request, struck)))
            )
          )
      }))

    return {
      guard,
      layer: (provider) =>
        Layer.provide(Layer.effect(Provider.Provider, Effect.flatMap(Provider.Provider, guard)), provider),
      setRules: (next) => {
        const ready = next.map(checked)
        return Clock.clockWith((clock) =>
          Effect.sync(() => {
            rules = ready
            since = monotonic(clock)
          })
        )
      },
      injected: Effect.sync(() => injected)
    }
  })
}

interface Struck {
  readonly millis: number
  readonly fault: Exclude<Fault, { readonly _tag: "Latency" }> | undefined
  readonly seed: number
}

const spared: Struck = { millis: 0, fault: undefined, seed: 0 }

const after = <A, E>(millis: number, effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
  millis > 0 ? Effect.andThen(Effect.sleep(millis), effect) : effect

const checked = ({ during, fault, rate }: Rule) => {
  if (rate !== undefined && !(rate >= 0 && rate <= 1)) {
    throw new RangeError(`Chaos: rate must be in [0, 1], got ${rate}`)
  }
  const from = Duration.toMillis(during?.from ?? 0)
  const length = Duration.toMillis(during?.for ?? Infinity)
  const every = Duration.toMillis(during?.every ?? Infinity)
  if (!(every > 0)) throw new RangeError(`Chaos: during.every must be longer than zero, got ${every} ms`)
  if (every < Infinity && !(length < every)) {
    const got = during?.for === undefined ? "nothing" : `${length} ms`
    throw new RangeError(`Chaos: during.for must be shorter than during.every (${every} ms), got ${got}`)
  }
  return {
    fault,
    rate: rate ?? 1,
    during: (elapsed: number): boolean =>
      elapsed >= from && (every === Infinity ? elapsed - from : (elapsed - from) % every) < length
  }
}

const nameOf = (fault: Fault): string => {
  switch (fault._tag) {
    case "Error":
      return fault.kind
    case "Output":
      return fault.name
    default:
      return fault._tag
  }
}

const whole = (
  self: Provider.Provider,
  request: LlmRequest,
  { fault, seed }: Struck
): Effect.Effect<LlmResponse.LlmResponse, Provider.Failure> => {
  if (fault === undefined) return self.generate(request)
  switch (fault._tag) {
    case "Error":
      return Effect.suspend(() => Effect.fail(errorOf(self.id, fault.kind, fault.retryAfter)))
    case "Hang":
      return Effect.never
    case "Cut":
      return Effect.flatMap(self.generate(request), () => Effect.fail(errorOf(self.id, "StreamCut")))
    case "Stall":
      return Effect.andThen(self.generate(request), Effect.never)
    case "SlowTokens":
      return Effect.tap(self.generate(request), ({ text }) =>
        Effect.sleep(Duration.times(fault.every, tokens(text).length))
      )
    case "Output":
      return Effect.succeed(said(self, fault.text))
    case "Corrupted":
      return Effect.map(self.generate(request), ({ content, limits, served }) => {
        const garble = garbling(seed)
        return LlmResponse.make({
          content: content.map((part) => (part.type === "text" ? { ...part, text: garble(part.text) } : part)),
          served,
          limits
        })
      })
  }
}

const streamed = (
  self: Provider.Provider,
  request: LlmRequest,
  { fault, seed }: Struck
): Stream.Stream<LlmResponse.LlmStreamPart, Provider.Failure> => {
  if (fault === undefined) return self.stream(request)
  switch (fault._tag) {
    case "Error":
      return Stream.suspend(() => Stream.fail(errorOf(self.id, fault.kind, fault.retryAfter)))
    case "Hang":
      return Stream.never
    case "Cut":
      return broken(
        self.stream(request),
        fault.afterParts,
        Stream.suspend(() => Stream.fail(errorOf(self.id, "StreamCut")))
      )
    case "Stall":
      return broken(self.stream(request), fault.afterParts, Stream.never)
    case "SlowTokens":
      return Stream.tap(self.stream(request), (part) =>
        LlmResponse.isContent(part) ? Effect.sleep(fault.every) : Effect.void
      )
    case "Output":
      return Provider.replay(said(self, fault.text))
    case "Corrupted":
      return Stream.suspend(() => {
        const garble = garbling(seed)
        return Stream.map(self.stream(request), (part) =>
          part.type === "text-delta" ? { ...part, delta: garble(part.delta) } : part
        )
      })
  }
}

// Passes so many parts with content on, and then what breaks the stream.
const broken = (
  parts: Stream.Stream<LlmResponse.LlmStreamPart, Provider.Failure>,
  after: number,
  end: Stream.Stream<never, Provider.Failure>
): Stream.Stream<LlmResponse.LlmStreamPart, Provider.Failure> =>
  Stream.suspend(() => {
    let seen = 0
    return Stream.concat(
      Stream.takeWhile(parts, (part) => {
        if (part.type === "finish") return false
        return !LlmResponse.isContent(part) || seen++ < after
      }),
      end
    )
  })

const said = (self: Provider.Provider, text: string): LlmResponse.LlmResponse =>
  LlmResponse.make({ content: LlmResponse.textContent(text), served: LlmResponse.servedBy(self) })

// One for all parts of an answer. Its first letter goes in any case: what was injected shall be there.
const garbling = (seed: number): ((text: string) => string) => {
  const d = dice(seed)
  let isFirst = true
  return (text) =>
    text.replaceAll(/\S/gu, (character) => {
      const isLost = d.chance(0.3) || isFirst
      isFirst = false
      return isLost ? "\u{FFFD}" : character
    })
}

/**
 * Fails with an error of a kind, without calling the provider.
 *
 * @category constructors
 * @since 0.1.0
 */
export const error = (
  kind: ProviderError.Kind,
  options?: { readonly retryAfter?: Duration.Input | undefined }
): Fault => ({
  _tag: "Error",
  kind,
  retryAfter: options?.retryAfter === undefined ? undefined : Duration.fromInputUnsafe(options.retryAfter)
})

/**
 * Limits the rate: answers 429, with a Retry-After when one is given.
 *
 * @category constructors
 * @since 0.1.0
 */
export const rateLimited = (retryAfter?: Duration.Input): Fault => error("RateLimited", { retryAfter })

/**
 * Waits before the provider is called: always as long, evenly between two bounds, or log-normally by median and 99th percentile, as
 * latencies of real services are spread.
 *
 * **Details**
 *
 * A latency that is negative injects none.
 *
 * @category constructors
 * @since 0.1.0
 */
export const latency = (
  length:
    | Duration.Input
    | { readonly min: Duration.Input; readonly max: Duration.Input }
    | { readonly median: Duration.Input; readonly p99: Duration.Input }
): Fault => {
  if (typeof length === "object" && "min" in length) {
    const [min, max] = [Duration.toMillis(length.min), Duration.toMillis(length.max)]
    if (!(min <= max)) throw new RangeError(`Chaos.latency: min must not be longer than max, got ${min} and ${max} ms`)
    return { _tag: "Latency", millis: (d) => d.between(min, max) }
  }
  if (typeof length === "object" && "median" in length) {
    const [median, p99] = [Duration.toMillis(length.median), Duration.toMillis(length.p99)]
    if (!(median > 0 && median <= p99 && p99 < Infinity)) {
      throw new RangeError(`Chaos.latency: median must be above zero and not above p99, got ${median} and ${p99} ms`)
    }
    return { _tag: "Latency", millis: logNormal(median, p99) }
  }
  const millis = Duration.toMillis(length)
  return { _tag: "Latency", millis: () => millis }
}

/**
 * Never answers.
 *
 * @category constructors
 * @since 0.1.0
 */
export const hang: Fault = { _tag: "Hang" }

/**
 * Breaks a stream off after so many parts with content, and a whole answer when it would have been complete.
 *
 * @category constructors
 * @since 0.1.0
 */
export const cut = (afterParts: number): Fault => ({ _tag: "Cut", afterParts: parts("cut", afterParts) })

/**
 * Falls silent after so many parts with content, and a whole answer before its end.
 *
 * @category constructors
 * @since 0.1.0
 */
export const stall = (afterParts: number): Fault => ({ _tag: "Stall", afterParts: parts("stall", afterParts) })

/**
 * Lets time pass before every part with content; a whole answer comes as late as its words would have.
 *
 * @category constructors
 * @since 0.1.0
 */
export const slowTokens = (every: Duration.Input): Fault => ({
  _tag: "SlowTokens",
  every: Duration.fromInputUnsafe(every)
})

/**
 * Answers with this text, without calling the provider.
 *
 * @category constructors
 * @since 0.1.0
 */
export const output = (text: string, name = "Output"): Fault => ({ _tag: "Output", name, text })

/**
 * Answers with nothing.
 *
 * @category constructors
 * @since 0.1.0
 */
export const empty: Fault = output("", "Empty")

/**
 * Answers with the same words again and again.
 *
 * @category constructors
 * @since 0.1.0
 */
export const looping: Fault = output("I will say this once more. ".repeat(200), "Loop")

/**
 * Declines to answer.
 *
 * @category constructors
 * @since 0.1.0
 */
export const refusing: Fault = output("I'm sorry, but I can't help with that.", "Refusal")

/**
 * Makes the words of the answer unreadable here and there.
 *
 * @category constructors
 * @since 0.1.0
 */
export const corrupted: Fault = { _tag: "Corrupted" }

const parts = (name: string, value: number): number => {
  if (!Number.isInteger(value) || value < 0) {
    throw new RangeError(`Chaos.${name}: afterParts must be an integer >= 0, got ${value}`)
  }
  return value
}
