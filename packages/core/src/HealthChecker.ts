/**
 * How every provider is doing: what its own calls show, what probes find out, and what its circuit says, joined into one state.
 *
 * **States**
 *
 * - `unhealthy`: its circuit is open, several checks in a row failed with no real call succeeding meanwhile, calls hang (five have waited twice
 *   as long as 95 of 100 usually take, and nothing sent after them was answered), or fewer than half of the recent calls succeed.
 * - `degraded`: it is recovering, its last check failed, fewer than nine of ten recent calls succeed, or it takes three times as long as usual.
 * - `healthy`: everything else. What nobody knows anything about is healthy.
 *
 * **Checks**
 *
 * A check asks the bare provider, beside the traffic of users and not through their queues, limits and breakers. It is left out while real
 * calls succeed and while the provider has asked for rest. After a good one an open circuit lets the next call try; after a bad one
 * it stays open until the check after that, so that no user pays for finding out. While checks fail, the chain passes the provider over,
 * but asks it before it gives up, and with one call in ten `interval`s: a check that is wrong by itself never stops all traffic, nor sends it to
 * a backup for ever.
 *
 * What real calls show changes the order among steps of equal priority and what people see. Keeping calls away is the work of the breaker, except
 * while calls hang: a breaker learns of silence only when the timeouts end, and until then every caller would wait for one.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as PubSub from "effect/PubSub"
import * as Random from "effect/Random"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { SkipReason } from "./Attempt.ts"
import type * as CircuitBreaker from "./CircuitBreaker.ts"
import * as Decision from "./Decision.ts"
import { anyRequest } from "./internal/anyRequest.ts"
import { monotonic } from "./internal/monotonic.ts"
import { within } from "./internal/within.ts"
import * as LlmRequest from "./LlmRequest.ts"
import type * as Policy from "./Policy.ts"
import type { Failure, Provider } from "./Provider.ts"
import * as ProviderError from "./ProviderError.ts"
import * as ResilienceEvent from "./ResilienceEvent.ts"
import type { Reading } from "./Vitals.ts"

/**
 * How a provider is doing.
 *
 * @category models
 * @since 0.1.0
 */
export type State = "healthy" | "degraded" | "unhealthy"

/**
 * What a state rests on.
 *
 * @category models
 * @since 0.1.0
 */
export type Because = "well" | "circuit open" | "checks fail" | "calls hang" | "calls fail" | "recovering" | "slow"

/**
 * How one provider is doing, since when and why.
 *
 * **Details**
 *
 * `since` is by the wall clock. `successRatio` is that of recent calls, 1 when there were none. `latency` is the mean of whole answers, or of first
 * contents where there are only streams. `lastError` is that of the last failed call or check.
 *
 * @category models
 * @since 0.1.0
 */
export interface Health {
  readonly provider: string
  readonly state: State
  readonly because: Because
  readonly since: DateTime.Utc
  readonly successRatio: number
  readonly latency?: Duration.Duration | undefined
  readonly lastError?: ProviderError.ProviderError | undefined
}

/**
 * A change from one state to another.
 *
 * @category models
 * @since 0.1.0
 */
export interface Change {
  readonly provider: string
  readonly from: State
  readonly to: State
  readonly because: Because
}

/**
 * What is known about a provider at one moment.
 *
 * **Details**
 *
 * `failedChecks` are those in a row up to now, the first of them at the monotonic millisecond `failingSince`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Evidence {
  readonly reading: Reading | undefined
  readonly failedChecks: number
  readonly failingSince: number
  readonly circuit: CircuitBreaker.State | undefined
}

/**
 * The rules of {@link judge}; see {@link Options}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Rules {
  readonly unhealthyAfter: number
  readonly minimumCalls: number
  readonly degradedBelow: number
  readonly unhealthyBelow: number
  readonly slowFactor: number
}

/**
 * Joins what is known into one state. The worst finding counts.
 *
 * @category combinators
 * @since 0.1.0
 */
export const judge = (rules: Rules, evidence: Evidence): readonly [State, Because] => {
  const { circuit, failedChecks, reading } = evidence
  const checksFail = failedChecks > 0 && (reading?.succeededAt ?? -Infinity) < evidence.failingSince
  const ratio = reading !== undefined && reading.calls >= rules.minimumCalls ? reading.successRatio : 1
  if (circuit?._tag === "Open" || circuit?._tag === "Isolated") return ["unhealthy", "circuit open"]
  if (checksFail && failedChecks >= rules.unhealthyAfter) return ["unhealthy", "checks fail"]
  if (reading?.hanging === true) return ["unhealthy", "calls hang"]
  if (ratio < rules.unhealthyBelow) return ["unhealthy", "calls fail"]
  if (circuit?._tag === "HalfOpen" || circuit?.limit !== undefined) return ["degraded", "recovering"]
  if (checksFail) return ["degraded", "checks fail"]
  if (ratio < rules.degradedBelow) return ["degraded", "calls fail"]
  if (reading !== undefined && reading.calls >= rules.minimumCalls && isSlow(rules, reading))
    return ["degraded", "slow"]
  return ["healthy", "well"]
}

const isSlow = ({ slowFactor }: Rules, { latency, usual }: Reading): boolean =>
  (latency.generate ?? 0) > slowFactor * (usual.generate ?? Infinity) ||
  (latency.stream ?? 0) > slowFactor * (usual.stream ?? Infinity)

/**
 * Watches providers.
 *
 * **Details**
 *
 * - `states`: how each watched provider is doing. `changes`: what changes from now on (the newest 128 are kept for a slow reader).
 * - `getHealthyProviders`: the ids of those that are not unhealthy, healthy ones first.
 * - `watch`: watches a provider for as long as the scope, and returns it knowing its health. `probe` is what checks ask: the bare provider, without
 *   the policies around it; by default the provider itself.
 *
 * @category models
 * @since 0.1.0
 */
export interface HealthChecker {
  readonly states: Effect.Effect<ReadonlyArray<Health>>
  readonly changes: Stream.Stream<Change>
  readonly getHealthyProviders: Effect.Effect<ReadonlyArray<string>>
  readonly watch: (
    self: Provider,
    options?: CheckOptions & { readonly probe?: Provider | undefined }
  ) => Effect.Effect<Provider, never, Scope.Scope>
}

/**
 * Service tag of {@link HealthChecker}.
 *
 * @category services
 * @since 0.1.0
 */
export const HealthChecker: Context.Service<HealthChecker, HealthChecker> = Context.Service(
  "@llm-resilience/core/HealthChecker"
)

/**
 * How one provider is checked.
 *
 * **Details**
 *
 * - `checks`: `on` by default; `off` for a provider whose calls cost too much to spend one on a check.
 * - `interval`: 30 s by default, give or take a fifth, so that many processes do not check at the same moment. `timeout`: 10 s by default.
 * - `intervalWhenDown`: while the provider is unhealthy, so that its recovery is noticed soon; 10 s by default, or `interval` where that is shorter.
 * - `check`: what is asked; by default the word "ping", with an answer of at most 16 tokens.
 *
 * @category models
 * @since 0.1.0
 */
export interface CheckOptions {
  readonly checks?: "on" | "off" | undefined
  readonly interval?: Duration.Input | undefined
  readonly intervalWhenDown?: Duration.Input | undefined
  readonly timeout?: Duration.Input | undefined
  readonly check?: ((provider: Provider) => Effect.Effect<unknown, Failure>) | undefined
}

/**
 * Options of the service; those of the checks hold for each provider that brings none of its own.
 *
 * **Details**
 *
 * - `unhealthyAfter`: how many checks in a row must fail, 2 by default.
 * - `minimumCalls`: the ratio and the latency of fewer recent calls say nothing, 5 by default.
 * - `degradedBelow`, `unhealthyBelow`: success ratios, 0.9 and 0.5 by default. `slowFactor`: how many times slower than usual is slow, 3 by default.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends CheckOptions {
  readonly unhealthyAfter?: number | undefined
  readonly minimumCalls?: number | undefined
  readonly degradedBelow?: number | undefined
  readonly unhealthyBelow?: number | undefined
  readonly slowFactor?: number | undefined
}

const ping = LlmRequest.make({ prompt: "ping", settings: { maxOutputTokens: 16 } })

interface Watched {
  readonly health: (now: number) => Health
}

/**
 * Creates a health checker that watches nothing yet.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options?: Options): Effect.Effect<HealthChecker, never, Scope.Scope> =>
  Effect.gen(function* () {
    const rules = rulesOf(options)
    const hub = yield* ResilienceEvent.CurrentHub
    const table = yield* Decision.CurrentTable
    const changes = yield* Effect.acquireRelease(PubSub.sliding<Change>(128), PubSub.shutdown)
    const watched = new Set<Watched>()

    const watch: HealthChecker["watch"] = Effect.fnUntraced(function* (self, own) {
      const clock = yield* Clock.Clock
      const circuit = self.circuits.get(self.id)
      let failedChecks = 0
      let failingSince = Infinity
      let lastError: ProviderError.ProviderError | undefined
      let state: State = "healthy"
      let because: Because = "well"
      let since = clock.currentTimeMillisUnsafe()
      let triedAt = monotonic(clock)

      const judged = (now: number): State => {
        const reading = self.vitals?.at(now)
        const [to, why] = judge(rules, { reading, failedChecks, failingSince, circuit: circuit?.at(now) })
        if (to !== state) {
          const change: Change = { provider: self.id, from: state, to, because: why }
          state = to
          since = clock.currentTimeMillisUnsafe()
          PubSub.publishUnsafe(changes, change)
          if (hub.active()) hub.publish({ _tag: "HealthChanged", ...change })
        }
        because = why
        return state
      }
      const entry: Watched = {
        health: (now) => {
          judged(now)
          const reading = self.vitals?.at(now)
          const millis = reading?.latency.generate ?? reading?.latency.stream
          const error = lastError ?? reading?.lastError
          return {
            provider: self.id,
            state,
            because,
            since: DateTime.makeUnsafe(since),
            successRatio: reading?.successRatio ?? 1,
            ...(millis === undefined ? {} : { latency: Duration.millis(millis) }),
            ...(error === undefined ? {} : { lastError: error })
          }
        }
      }
      yield* Effect.acquireRelease(
        Effect.sync(() => {
          watched.add(entry)
          const ended = (now: number): void => {
            triedAt = now
            judged(now)
          }
          const stops = [self.vitals?.listen(ended), circuit?.listen(judged)]
          return () => stops.forEach((stop) => stop?.())
        }),
        (stop) =>
          Effect.sync(() => {
            stop()
            watched.delete(entry)
          })
      )

      const { check, checks, interval, intervalWhenDown, timeout } = checkingOf(own ?? {}, options ?? {})
      const probe = own?.probe ?? self
      const conclude = (verdict: Verdict, error: Failure | undefined, now: number) => {
        if (verdict === "none") return Effect.void
        if (verdict === "bad" && error !== undefined && error._tag !== "LlmUnavailable") lastError = error
        if (verdict === "bad" && failedChecks === 0) failingSince = now
        failedChecks = verdict === "bad" ? failedChecks + 1 : 0
        judged(now)
        if (circuit === undefined) return Effect.void
        return verdict === "good" ? Effect.ignore(circuit.halfOpen) : circuit.hold(1.2 * intervalWhenDown + timeout)
      }
      let checkedAt = monotonic(clock)
      const checkOnce = Effect.gen(function* () {
        const start = monotonic(clock)
        if (start - checkedAt < 0.8 * interval && judged(start) !== "unhealthy") return
        // What real calls show is better than any check, and a provider that asked for rest must not be asked.
        if ((self.vitals?.at(start).succeededAt ?? -Infinity) > start - interval) return
        checkedAt = start
        const reason = self.availability(anyRequest, start)
        if (reason !== undefined && rests(reason)) return
        const late = Effect.fail(
          new ProviderError.Timeout({ provider: self.id, kind: "attempt", after: Duration.millis(timeout) })
        )
        const error = yield* within(
          Effect.suspend(() => check(probe)),
          timeout,
          () => late,
          0
        ).pipe(
          Effect.as(undefined),
          Effect.catchCause((cause) =>
            Effect.succeed(
              cause.reasons.find((reason) => reason._tag === "Fail")?.error ?? ProviderError.fromDefect(self.id, cause)
            )
          )
        )
        const now = monotonic(clock)
        const verdict = verdictOf(table, error)
        if (hub.active()) {
          const facts = error === undefined || error._tag === "LlmUnavailable" ? {} : { error }
          const duration = Duration.millis(now - start)
          hub.publish({ _tag: "HealthChecked", provider: self.id, verdict, duration, ...facts })
        }
        yield* conclude(verdict, error, now)
      })
      if (checks === "on") {
        yield* Random.next.pipe(
          Effect.flatMap((random) => Effect.sleep(Duration.millis(intervalWhenDown * (0.8 + 0.4 * random)))),
          Effect.andThen(checkOnce),
          Effect.forever,
          Effect.forkScoped
        )
      }

      const passesOver = (request: LlmRequest.LlmRequest, now: number): boolean => {
        const suspected = failedChecks >= rules.unhealthyAfter || self.vitals?.mayHang() === true
        if (!suspected || request.insists || request.lastResort || judged(now) !== "unhealthy") return false
        if (because !== "checks fail") return because === "calls hang"
        // Checks may be wrong by themselves, so now and then a real call finds out. Whoever asks may yet turn to somebody else.
        return now - Math.max(triedAt, failingSince) < 10 * interval || self.vitals?.at(now).inFlight !== 0
      }
      return {
        ...self,
        health: judged,
        availability: (request, now) =>
          passesOver(request, now) ? { _tag: "Unhealthy" } : self.availability(request, now),
        status: Effect.zipWith(
          self.status,
          Effect.sync(() => entry.health(monotonic(clock))),
          (inner, health) => inner.map((status) => (status.provider === self.id ? { ...status, health } : status))
        )
      }
    })

    const states = Clock.clockWith((clock) =>
      Effect.sync(() => Array.from(watched, ({ health }) => health(monotonic(clock))))
    )
    return {
      states,
      changes: Stream.fromPubSub(changes),
      getHealthyProviders: Effect.map(states, (all) => [
        ...all.filter(({ state }) => state === "healthy").map(({ provider }) => provider),
        ...all.filter(({ state }) => state === "degraded").map(({ provider }) => provider)
      ]),
      watch
    }
  })

const rests = ({ _tag }: SkipReason): boolean => _tag === "CoolingDown" || _tag === "Isolated"

// A rate limit says neither that the provider is well nor that it is not.
type Verdict = "good" | "bad" | "none"

const verdictOf = (table: Decision.Table, error: Failure | undefined): Verdict => {
  if (error === undefined) return "good"
  if (error._tag === "LlmUnavailable") return "none"
  const { breaker, rest } = Decision.of(table, error)
  if (breaker === "failure" || rest === "isolate") return "bad"
  return rest === "coolDown" ? "none" : "good"
}

const rulesOf = (options: Options | undefined): Rules => {
  const rules = {
    unhealthyAfter: options?.unhealthyAfter ?? 2,
    minimumCalls: options?.minimumCalls ?? 5,
    degradedBelow: options?.degradedBelow ?? 0.9,
    unhealthyBelow: options?.unhealthyBelow ?? 0.5,
    slowFactor: options?.slowFactor ?? 3
  }
  for (const name of ["unhealthyAfter", "minimumCalls"] as const) {
    if (!Number.isInteger(rules[name]) || rules[name] < 1) {
      throw new RangeError(`HealthChecker.make: ${name} must be an integer >= 1, got ${rules[name]}`)
    }
  }
  for (const name of ["degradedBelow", "unhealthyBelow"] as const) {
    if (!(rules[name] >= 0 && rules[name] <= 1)) {
      throw new RangeError(`HealthChecker.make: ${name} must be in [0, 1], got ${rules[name]}`)
    }
  }
  if (!(rules.slowFactor > 1)) {
    throw new RangeError(`HealthChecker.make: slowFactor must be greater than 1, got ${rules.slowFactor}`)
  }
  return rules
}

const checkingOf = (own: CheckOptions, all: CheckOptions) => {
  const interval = Duration.toMillis(own.interval ?? all.interval ?? "30 seconds")
  const timeout = Duration.toMillis(own.timeout ?? all.timeout ?? "10 seconds")
  const intervalWhenDown = Duration.toMillis(own.intervalWhenDown ?? all.intervalWhenDown ?? Math.min(interval, 10_000))
  for (const [name, millis] of [
    ["interval", interval],
    ["intervalWhenDown", intervalWhenDown],
    ["timeout", timeout]
  ] as const) {
    if (!(millis > 0 && Number.isFinite(millis))) {
      throw new RangeError(`HealthChecker.watch: ${name} must be finite and longer than zero, got ${millis} ms`)
    }
  }
  if (intervalWhenDown > interval) {
    throw new RangeError(
      `HealthChecker.watch: intervalWhenDown must not be longer than interval, got ${intervalWhenDown} ms`
    )
  }
  const check = own.check ?? all.check ?? ((provider: Provider) => provider.generate(ping))
  return { check, checks: own.checks ?? all.checks ?? "on", interval, intervalWhenDown, timeout }
}

/**
 * Layer that provides a {@link HealthChecker}, to be used with {@link policy}.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<HealthChecker> => Layer.effect(HealthChecker, make(options))

/**
 * Puts a policy around a provider and watches the result with the checker from the context. Checks ask the provider without the policy.
 *
 * **Example** (Noticing that a provider is down before a user does)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { TestClock } from "effect/testing"
 * import { HealthChecker, LlmResilience, Provider, ProviderError } from "@llm-resilience/core"
 *
 * const down = Provider.make({
 *   id: "down",
 *   model: "m",
 *   generate: () =>
 *     Effect.fail(new ProviderError.APIError({ provider: "down", reason: "ServerError", description: "500" }))
 * })
 *
 * const program = Effect.gen(function*() {
 *   const checker = yield* HealthChecker.HealthChecker
 *   yield* HealthChecker.policy(LlmResilience.standard())(down)
 *   yield* TestClock.adjust("2 minutes")
 *   return (yield* checker.states).map(({ provider, state, because }) => [provider, state, because])
 * })
 *
 * await Effect.runPromise(
 *   Effect.scoped(program).pipe(Effect.provide([HealthChecker.layer(), TestClock.layer()]))
 * ) // => [["down", "unhealthy", "checks fail"]]
 * ```
 *
 * @category policies
 * @since 0.1.0
 */
export const policy =
  <R>(inner: Policy.Policy<R>, options?: CheckOptions): Policy.Policy<R | HealthChecker> =>
  (self) =>
    Effect.gen(function* () {
      const checker = yield* HealthChecker
      return yield* checker.watch(yield* inner(self), { ...options, probe: self })
    })
