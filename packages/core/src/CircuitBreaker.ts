/**
 * Stops calling a provider that keeps failing, and finds out with few calls when it is back.
 *
 * The rules live in {@link Circuit}, a pure machine. This module keeps its state in a `Ref`, reads the monotonic clock, and reports
 * transitions. What counts as a failure is decided by the {@link Decision} table: a rate limit or an invalid request never opens a
 * circuit, a caller who leaves counts neither way and gives a probe slot back.
 *
 * **Defaults**
 *
 * Opens after 5 failures in a row, stays open for 60 s, probes with one call on a lease of 60 s. A Retry-After longer than that
 * is respected up to 10 minutes.
 *
 * **Neighbours**
 *
 * Inside `Retry`, so that every attempt counts and an open circuit ends the retries; outside `Timeouts`, so that a timeout is a
 * failure. While open, the fallback chain skips the step without calling it. Callers who arrive while a probe runs are rejected at
 * once: the chain has somebody else to ask, waiting would only add the probe's time to theirs.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as PubSub from "effect/PubSub"
import * as Ref from "effect/Ref"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { SkipReason } from "./Attempt.ts"
import * as Circuit from "./Circuit.ts"
import * as Decision from "./Decision.ts"
import { monotonic } from "./internal/monotonic.ts"
import * as LlmUnavailable from "./LlmUnavailable.ts"
import * as Policy from "./Policy.ts"
import type { Provider } from "./Provider.ts"
import * as ProviderError from "./ProviderError.ts"
import * as ResilienceEvent from "./ResilienceEvent.ts"

/**
 * How a circuit is doing.
 *
 * **Details**
 *
 * `retryAfter` is the time left until a call may pass. `openings` counts the openings in a row, `probing` the probes under way, `limit` how
 * many calls may be in flight during a slow start.
 *
 * @category models
 * @since 0.1.0
 */
export type State =
  | { readonly _tag: "Closed"; readonly failures: number; readonly limit?: number | undefined }
  | { readonly _tag: "Open"; readonly retryAfter: Duration.Duration; readonly openings: number }
  | { readonly _tag: "HalfOpen"; readonly probing: number; readonly openings: number }
  | { readonly _tag: "Isolated"; readonly because: string; readonly retryAfter: Duration.Duration }

/**
 * A change from one state to another. A change to the same state is not one.
 *
 * @category models
 * @since 0.1.0
 */
export interface Transition {
  readonly from: State["_tag"]
  readonly to: State["_tag"]
  readonly retryAfter?: Duration.Duration | undefined
}

/**
 * One circuit breaker. Several providers may share one, for instance two models behind the same account.
 *
 * **Details**
 *
 * - `guard` puts the breaker around a provider.
 * - `state` is a snapshot for humans, `transitions` the changes from now on (the newest 128 are kept for a slow reader).
 * - `at` is the state for policies that have read the monotonic clock already. `listen` calls a function after each change, until the returned
 *   function is called; it must not throw.
 * - `isolate` takes the provider out until `reset`, or for a time. `reset` closes the circuit and forgets everything.
 * - `halfOpen` lets the next call probe an open circuit before its time; from any other state that is an {@link IllegalTransition}.
 * - `hold` keeps an open circuit open for at least this long, and a half-open one without probes opens again, because a health check has just
 *   failed; but no longer than `maxOpenFor` after the circuit opened. Any other state stays as it is.
 * - `snapshot` is what `make` accepts as `restore` after a restart.
 *
 * @category models
 * @since 0.1.0
 */
export interface CircuitBreaker {
  readonly guard: (self: Provider) => Provider
  readonly state: Effect.Effect<State>
  readonly at: (now: number) => State
  readonly listen: (listener: (now: number) => void) => () => void
  readonly transitions: Stream.Stream<Transition>
  readonly isolate: (
    because: string,
    options?: { readonly duration?: Duration.Input | undefined }
  ) => Effect.Effect<void>
  readonly reset: Effect.Effect<void>
  readonly halfOpen: Effect.Effect<void, IllegalTransition>
  readonly hold: (duration: Duration.Input) => Effect.Effect<void>
  readonly snapshot: Effect.Effect<Circuit.Snapshot>
}

/**
 * Service tag of {@link CircuitBreaker}, for a breaker that several providers share through {@link shared}.
 *
 * @category services
 * @since 0.1.0
 */
export const CircuitBreaker: Context.Service<CircuitBreaker, CircuitBreaker> = Context.Service(
  "@llm-resilience/core/CircuitBreaker"
)

/**
 * Options of a breaker.
 *
 * **Details**
 *
 * - `trip`: {@link consecutive} (default, 5 failures), {@link countWindow} or {@link timeWindow}.
 * - `openFor`: a duration (default 60 s), or a schedule that gives the first, second, … opening in a row; after its end the last
 *   value repeats, and a close starts it anew. At most 100 values are taken from it.
 * - `maxOpenFor`: the most that a schedule or a Retry-After can make of an opening, 10 minutes by default.
 * - `probes`: calls admitted while half-open, 1 by default. `probeLease`: time for each to show its first content, 60 s by default.
 * - `probeFailureRate`: share of failed probes that opens again; by default the trip policy's rate, or any failure.
 * - `slowStart`: after probes have closed the circuit, calls come back gradually for at most this long: two at a time, then one more with each
 *   success. Others are refused with `Recovering`, which a chain answers with another step, and if there is none by insisting. Off by default
 *   (zero), 20 s in `LlmResilience.standard`.
 * - `restore`: a snapshot to start from.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly trip?: Circuit.Trip | undefined
  readonly openFor?: Duration.Input | Schedule.Schedule<unknown> | undefined
  readonly maxOpenFor?: Duration.Input | undefined
  readonly probes?: number | undefined
  readonly probeLease?: Duration.Input | undefined
  readonly probeFailureRate?: number | undefined
  readonly slowStart?: Duration.Input | undefined
  readonly restore?: Circuit.Snapshot | undefined
}

/**
 * Creates a breaker.
 *
 * **Details**
 *
 * `name` appears in events and rejections. When the scope closes, the breaker refuses every further call: a call that outlives its
 * layer is a mistake that must not reach a provider unguarded.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: (options: Options & { readonly name: string }) => Effect.Effect<CircuitBreaker, never, Scope.Scope> =
  Effect.fnUntraced(function* (options) {
    const settings = yield* settingsOf(options)
    const table = yield* Decision.CurrentTable
    const hub = yield* ResilienceEvent.CurrentHub
    const clock = yield* Clock.Clock
    const ref = Ref.makeUnsafe(
      options.restore === undefined
        ? Circuit.initial(settings)
        : Circuit.restore(settings, options.restore, monotonic(clock))
    )
    const transitions = yield* PubSub.sliding<Transition>(128)
    const listeners = new Set<(now: number) => void>()
    let admitted = 0

    const apply = (event: Circuit.Event, now: number): Circuit.Decision => {
      const before = ref.ref.current
      const [after, decision] = Circuit.step(settings, before, event, now)
      ref.ref.current = after
      if (before._tag !== after._tag) changed(before, after, now)
      return decision
    }

    const changed = (before: Circuit.State, after: Circuit.State, now: number): void => {
      const retryAfter = after._tag === "Open" ? { retryAfter: Duration.millis(after.until - now) } : {}
      const transition: Transition = { from: before._tag, to: after._tag, ...retryAfter }
      PubSub.publishUnsafe(transitions, transition)
      for (const listener of listeners) listener(now)
      if (hub.active()) hub.publish({ _tag: "CircuitChanged", provider: options.name, ...transition })
    }

    const perform = (event: Circuit.Event): Effect.Effect<Circuit.Decision> =>
      Clock.clockWith((clock) => Effect.sync(() => apply(event, monotonic(clock))))

    // The end of the layer is no incident: nobody is told of it.
    yield* Effect.addFinalizer(() =>
      Clock.clockWith((clock) => {
        const closed = { _tag: "Isolate", because: "the breaker's scope is closed", duration: Infinity } as const
        ref.ref.current = Circuit.step(settings, ref.ref.current, closed, monotonic(clock))[0]
        return PubSub.shutdown(transitions)
      })
    )

    const refuse = (self: Provider, reason: SkipReason) =>
      Effect.fail(LlmUnavailable.make([{ _tag: "Skipped", provider: self.id, model: self.model, reason }]))

    const verdictOf = (
      outcome: Policy.Outcome
    ): Pick<Extract<Circuit.Event, { _tag: "Record" }>, "verdict" | "retryAfter"> => {
      if (outcome._tag === "Succeeded") return succeeded
      if (outcome._tag === "Abandoned" || outcome.error._tag === "LlmUnavailable")
        return { verdict: "ignored", retryAfter: 0 }
      const retryAfter = ProviderError.retryAfter(outcome.error)
      return {
        verdict: Decision.of(table, outcome.error).breaker,
        retryAfter: retryAfter === undefined ? 0 : Duration.toMillis(retryAfter)
      }
    }

    const breaker: CircuitBreaker = {
      guard: (self) => ({
        ...self,
        ...Policy.observe<Circuit.Admission>({
          admit: (request, now) => {
            const decision = apply(
              { _tag: "Admit", number: admitted, lastResort: request.lastResort, insists: request.insists },
              now
            )
            if (decision._tag !== "Admitted") {
              return refuse(self, decision._tag === "Rejected" ? decision.reason : { _tag: "ProbeRunning" })
            }
            admitted++
            return Effect.succeed(decision.admission)
          },
          // The first content is the verdict of a probe: nobody should wait for the end of a long answer to learn that the provider is
          // back. From there on the call counts as any other.
          commit: (admission, duration, now) => {
            if (admission.lease === undefined) {
              if (!admission.ramped) return admission
              // It shows that the provider is well, and still is one call: the window counts it when it ends.
              apply({ _tag: "Began", admission }, now)
              return { ...admission, ramped: false }
            }
            apply({ _tag: "Record", admission, verdict: "success", duration, retryAfter: 0 }, now)
            const again =
              ref.ref.current._tag === "Closed"
                ? apply({ _tag: "Admit", number: admission.number, lastResort: false, insists: true }, now)
                : undefined
            if (again?._tag !== "Admitted") return admission
            if (!again.admission.ramped) return again.admission
            apply({ _tag: "Began", admission: again.admission }, now)
            return { ...again.admission, ramped: false }
          },
          settle: (admission, outcome, now) => {
            const { retryAfter, verdict } = verdictOf(outcome)
            apply({ _tag: "Record", admission, duration: outcome.duration, verdict, retryAfter }, now)
            return Effect.void
          }
        })(self),
        availability: (request, now) =>
          Circuit.peek(settings, ref.ref.current, request, now) ?? self.availability(request, now),
        status: Effect.zipWith(
          self.status,
          Effect.suspend(() => breaker.state),
          (inner, circuit) => inner.map((status) => (status.provider === self.id ? { ...status, circuit } : status))
        ),
        circuits: new Map([...self.circuits, [self.id, breaker]])
      }),
      state: Clock.clockWith((clock) => Effect.sync(() => breaker.at(monotonic(clock)))),
      at: (now) => view(settings, ref.ref.current, now),
      listen: (listener) => {
        listeners.add(listener)
        return () => listeners.delete(listener)
      },
      transitions: Stream.fromPubSub(transitions),
      isolate: (because, options) =>
        Effect.asVoid(
          perform({
            _tag: "Isolate",
            because,
            duration: options?.duration === undefined ? Infinity : Duration.toMillis(options.duration)
          })
        ),
      reset: Effect.asVoid(perform({ _tag: "Reset" })),
      halfOpen: Effect.flatMap(perform({ _tag: "HalfOpen" }), (decision) =>
        decision._tag === "Illegal"
          ? Effect.fail(new IllegalTransition({ from: ref.ref.current._tag, to: "HalfOpen" }))
          : Effect.void
      ),
      hold: (duration) => Effect.asVoid(perform({ _tag: "Hold", duration: Duration.toMillis(duration) })),
      snapshot: Clock.clockWith((clock) =>
        Effect.sync(() => {
          const now = monotonic(clock)
          // What time alone has done by now: a probe whose lease is over has opened the circuit again.
          return Circuit.snapshot(Circuit.settle(settings, ref.ref.current, now), now)
        })
      )
    }
    return breaker
  })

const succeeded = { verdict: "success", retryAfter: 0 } as const

const view = (settings: Circuit.Settings, kept: Circuit.State, now: number): State => {
  const state = Circuit.settle(settings, kept, now)
  switch (state._tag) {
    case "Closed":
      return {
        _tag: "Closed",
        failures: Circuit.totals(state.tally).failed,
        ...(state.ramp === undefined ? {} : { limit: state.ramp.limit })
      }
    case "Open":
      return { _tag: "Open", retryAfter: Duration.millis(Math.max(0, state.until - now)), openings: state.openings }
    case "HalfOpen":
      return { _tag: "HalfOpen", probing: state.leases.length, openings: state.openings }
    case "Isolated":
      return { _tag: "Isolated", because: state.because, retryAfter: Duration.millis(Math.max(0, state.until - now)) }
  }
}

/**
 * Creates the policy that puts a breaker of its own around each provider it is applied to.
 *
 * **Example** (Opening after two failures)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { CircuitBreaker, LlmRequest, Provider, ProviderError } from "@llm-resilience/core"
 *
 * const broken = Provider.make({
 *   id: "broken",
 *   model: "m",
 *   generate: () =>
 *     Effect.fail(new ProviderError.APIError({ provider: "broken", reason: "ServerError", description: "500" }))
 * })
 * const policy = CircuitBreaker.policy({ trip: CircuitBreaker.consecutive(2), openFor: "30 seconds" })
 *
 * const program = Effect.scoped(
 *   Effect.gen(function*() {
 *     const guarded = yield* policy(broken)
 *     const call = Effect.flip(guarded.generate(LlmRequest.make({ prompt: "Hi" })))
 *     return [(yield* call)._tag, (yield* call)._tag, (yield* call)._tag]
 *   })
 * )
 *
 * await Effect.runPromise(program) // => ["APIError", "APIError", "LlmUnavailable"]
 * ```
 *
 * @category policies
 * @since 0.1.0
 */
export const policy =
  (options?: Options): Policy.Policy =>
  (self) =>
    Effect.map(make({ ...options, name: self.id }), (breaker) => breaker.guard(self))

/**
 * The policy that puts the breaker from the context around every provider it is applied to, so that they share its state.
 *
 * @category policies
 * @since 0.1.0
 */
export const shared: Policy.Policy<CircuitBreaker> = (self) =>
  Effect.map(CircuitBreaker, (breaker) => breaker.guard(self))

/**
 * Layer that provides one breaker, to be used with {@link shared}.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options & { readonly name: string }): Layer.Layer<CircuitBreaker> =>
  Layer.effect(CircuitBreaker, make(options))

/**
 * Opens after this many failures in a row, in the order in which calls ended or in the order in which they were sent.
 *
 * @category constructors
 * @since 0.1.0
 */
export const consecutive = (failures: number): Circuit.Trip => {
  if (!Number.isInteger(failures) || failures < 1) {
    throw new RangeError(`CircuitBreaker.consecutive: failures must be an integer >= 1, got ${failures}`)
  }
  return { _tag: "Consecutive", failures }
}

interface RateOptions {
  readonly minimumCalls?: number | undefined
  readonly failureRate?: number | undefined
  readonly slowAfter?: Duration.Input | undefined
  readonly slowRate?: number | undefined
}

/**
 * Opens on the share of failures, or of slow calls, among the last `size` calls.
 *
 * **Details**
 *
 * Defaults: `size` 100, `minimumCalls` the size, `failureRate` 0.5, `slowAfter` never, `slowRate` 1.
 *
 * @category constructors
 * @since 0.1.0
 */
export const countWindow = (options?: RateOptions & { readonly size?: number | undefined }): Circuit.Trip => {
  const size = options?.size ?? 100
  if (!Number.isInteger(size) || size < 1 || size > 1000) {
    throw new RangeError(`CircuitBreaker.countWindow: size must be an integer in [1, 1000], got ${size}`)
  }
  return rate("countWindow", { _tag: "Count", size }, options, options?.minimumCalls ?? size, size)
}

/**
 * Opens on the share of failures, or of slow calls, in the last `duration`, which is forgotten in ten parts, one by one.
 *
 * **Details**
 *
 * Defaults: `duration` 60 s, `minimumCalls` 10, `failureRate` 0.5, `slowAfter` never, `slowRate` 1.
 *
 * @category constructors
 * @since 0.1.0
 */
export const timeWindow = (
  options?: RateOptions & { readonly duration?: Duration.Input | undefined }
): Circuit.Trip => {
  const millis = Duration.toMillis(options?.duration ?? "60 seconds")
  if (!(millis > 0 && Number.isFinite(millis))) {
    throw new RangeError(`CircuitBreaker.timeWindow: duration must be positive and finite, got ${millis} ms`)
  }
  return rate("timeWindow", { _tag: "Time", millis, buckets: 10 }, options, options?.minimumCalls ?? 10, Infinity)
}

const rate = (
  name: string,
  window: Extract<Circuit.Trip, { _tag: "Rate" }>["window"],
  options: RateOptions | undefined,
  minimumCalls: number,
  most: number
): Circuit.Trip => {
  const failureRate = options?.failureRate ?? 0.5
  const slowRate = options?.slowRate ?? 1
  if (!Number.isInteger(minimumCalls) || minimumCalls < 1 || minimumCalls > most) {
    throw new RangeError(`CircuitBreaker.${name}: minimumCalls must be an integer in [1, ${most}], got ${minimumCalls}`)
  }
  for (const [field, value] of [
    ["failureRate", failureRate],
    ["slowRate", slowRate]
  ] as const) {
    if (!(value > 0 && value <= 1)) {
      throw new RangeError(`CircuitBreaker.${name}: ${field} must be in (0, 1], got ${value}`)
    }
  }
  const slowAfter = options?.slowAfter === undefined ? Infinity : Duration.toMillis(options.slowAfter)
  return { _tag: "Rate", window, minimumCalls, failureRate, slowAfter, slowRate }
}

const settingsOf = Effect.fnUntraced(function* (options: Options) {
  const trip = options.trip ?? consecutive(5)
  const probes = options.probes ?? 1
  const probeFailureRate = options.probeFailureRate ?? (trip._tag === "Rate" ? trip.failureRate : 0)
  if (!Number.isInteger(probes) || probes < 1) {
    throw new RangeError(`CircuitBreaker.make: probes must be an integer >= 1, got ${probes}`)
  }
  if (!(probeFailureRate >= 0 && probeFailureRate <= 1)) {
    throw new RangeError(`CircuitBreaker.make: probeFailureRate must be in [0, 1], got ${probeFailureRate}`)
  }
  const probeLease = Duration.toMillis(options.probeLease ?? "60 seconds")
  if (!(probeLease > 0))
    throw new RangeError(`CircuitBreaker.make: probeLease must be longer than zero, got ${probeLease} ms`)
  const maxOpenFor = Duration.toMillis(options.maxOpenFor ?? "10 minutes")
  const slowStart = Duration.toMillis(options.slowStart ?? 0)
  if (!(slowStart >= 0 && Number.isFinite(slowStart))) {
    throw new RangeError(`CircuitBreaker.make: slowStart must be finite and not negative, got ${slowStart} ms`)
  }
  const settings: Circuit.Settings = {
    trip,
    openFor: yield* openForOf(options.openFor ?? "60 seconds", maxOpenFor),
    maxOpenFor,
    probes,
    probeLease,
    probeFailureRate,
    slowStart
  }
  return settings
})

// The machine wants a plain function of the opening's number, so a schedule is played through once, on imaginary time. Its jitter
// then differs from breaker to breaker, which is what keeps many processes from probing at the same moment.
const openForOf = Effect.fnUntraced(function* (openFor: Duration.Input | Schedule.Schedule<unknown>, most: number) {
  if (!Schedule.isSchedule(openFor)) {
    const millis = Duration.toMillis(openFor)
    if (!(millis > 0)) throw new RangeError(`CircuitBreaker.make: openFor must be longer than zero, got ${millis} ms`)
    return () => millis
  }
  const next = yield* Schedule.toStep(openFor)
  const delays: Array<number> = []
  for (let now = 0; delays.length < 100; now += delays.at(-1) ?? 0) {
    const result = yield* Effect.exit(next(now, undefined))
    if (result._tag === "Failure") break
    delays.push(Math.min(most, Duration.toMillis(result.value[1])))
  }
  if (delays.length === 0) throw new RangeError("CircuitBreaker.make: the schedule of openFor gives no duration")
  return (opening: number) => delays[Math.min(opening, delays.length) - 1] ?? 0
})

/**
 * Error raised when a circuit is asked for a step that its state does not allow, such as half-opening a closed one.
 *
 * @category errors
 * @since 0.1.0
 */
export class IllegalTransition extends Data.TaggedError("IllegalTransition")<{
  readonly from: State["_tag"]
  readonly to: State["_tag"]
}> {
  override get message(): string {
    return `A circuit cannot go from ${this.from} to ${this.to} by hand`
  }
}
