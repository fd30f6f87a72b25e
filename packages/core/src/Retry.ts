/**
 * Asks the same provider again when the {@link Decision} table says that this can help.
 *
 * **Rules**
 *
 * - Rows with `retry: "yes"` follow the schedule; a Retry-After is a floor for its delay.
 * - `ifShort` (rate limits) waits only for a Retry-After that the provider named, that is at most `maxRetryAfter` (5 s), and that fits
 *   the deadline. A longer one falls over now: another provider is faster than any wait.
 * - `ifLast` (timeouts) retries only when no other step is left.
 * - Each retry is taken from the attempts of its request, of which one stays reserved for every step that could take over, and from the
 *   {@link Budget} that the provider carries. Where nothing is left, the error goes up at once.
 * - A delay that does not fit what is left of the deadline, or at whose end the call would be refused (an open circuit, a provider at
 *   rest), is not waited for: the error goes up at once, so that the chain can use the time.
 * - The provider's own `x-should-retry` wins over the table.
 * - A stream is retried only before its first content. After it nothing is silently repeated.
 * - When the attempts are used up, the last error goes up unchanged.
 * - An answer that cost `slowerAfter` (1 s) or more of failed retries and waiting carries the notice `Slower`.
 *
 * This is the one owner of retries: adapters never repeat a request by themselves, so attempts cannot multiply. Full jitter follows
 * the "Exponential Backoff And Jitter" article of the AWS Architecture Blog (2015).
 *
 * @since 0.1.0
 */
import * as Arr from "effect/Array"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Pull from "effect/Pull"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import * as Attempt from "./Attempt.ts"
import * as Decision from "./Decision.ts"
import { monotonic } from "./internal/monotonic.ts"
import { open, opened, type Opened } from "./internal/opening.ts"
import * as LlmRequest from "./LlmRequest.ts"
import * as LlmResponse from "./LlmResponse.ts"
import * as LlmUnavailable from "./LlmUnavailable.ts"
import * as Notice from "./Notice.ts"
import type * as Policy from "./Policy.ts"
import type { Failure } from "./Provider.ts"
import * as ProviderError from "./ProviderError.ts"
import * as ResilienceEvent from "./ResilienceEvent.ts"

/**
 * Returns a schedule whose delays grow exponentially, never exceed `cap`, and are drawn evenly between zero and that bound.
 *
 * **Details**
 *
 * Defaults: `base` 500 ms, `factor` 2, `cap` 8 s, `retries` 2. The bound saturates at `cap` and never becomes infinite.
 *
 * @category schedules
 * @since 0.1.0
 */
export const exponential = (options?: {
  readonly base?: Duration.Input | undefined
  readonly factor?: number | undefined
  readonly cap?: Duration.Input | undefined
  readonly retries?: number | undefined
}): Schedule.Schedule<unknown> => {
  const cap = Duration.toMillis(options?.cap ?? "8 seconds")
  const factor = options?.factor ?? 2
  if (!(factor >= 1)) throw new RangeError(`Retry.exponential: factor must be at least 1, got ${factor}`)
  return Schedule.exponential(options?.base ?? "500 millis", factor).pipe(
    Schedule.modifyDelay(({ duration }) =>
      Effect.map(Random.next, (random) => Duration.millis(random * Math.min(cap, Duration.toMillis(duration))))
    ),
    Schedule.upTo({ times: retriesOf(options?.retries ?? 2) })
  )
}

const retriesOf = (retries: number): number => {
  if (!Number.isInteger(retries) || retries < 0) {
    throw new RangeError(`Retry.exponential: retries must be an integer >= 0, got ${retries}`)
  }
  return retries
}

/**
 * Options of retries.
 *
 * **Details**
 *
 * `schedule` gives the delays and the number of retries, {@link exponential} by default; it is started anew by the first failure of
 * each call. `maxRetryAfter` is the longest Retry-After that is waited for, 5 s by default. `slowerAfter` is the time between the first failure
 * and the start of the attempt that succeeded from which on the user is told that the answer took longer, 1 s by default.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly schedule?: Schedule.Schedule<unknown, ProviderError.ProviderError> | undefined
  readonly maxRetryAfter?: Duration.Input | undefined
  readonly slowerAfter?: Duration.Input | undefined
}

/**
 * Creates the policy.
 *
 * **Example** (Surviving one server error)
 *
 * ```ts import.meta.vitest
 * import { Effect, Schedule } from "effect"
 * import { LlmRequest, LlmResponse, Provider, ProviderError, Retry } from "@llm-resilience/core"
 *
 * let calls = 0
 * const shaky = Provider.make({
 *   id: "shaky",
 *   model: "m",
 *   generate: () =>
 *     calls++ === 0
 *       ? Effect.fail(new ProviderError.APIError({ provider: "shaky", reason: "ServerError", description: "500" }))
 *       : Effect.succeed({ content: LlmResponse.textContent("Hello!") })
 * })
 *
 * const program = Effect.scoped(
 *   Effect.gen(function*() {
 *     const steady = yield* Retry.policy({ schedule: Schedule.recurs(1) })(shaky)
 *     return (yield* steady.generate(LlmRequest.make({ prompt: "Hi" }))).text
 *   })
 * )
 *
 * await Effect.runPromise(program) // => "Hello!"
 * calls // => 2
 * ```
 *
 * @category policies
 * @since 0.1.0
 */
export const policy = (options?: Options): Policy.Policy => {
  const schedule = options?.schedule ?? exponential()
  const maxRetryAfter = Duration.toMillis(options?.maxRetryAfter ?? "5 seconds")
  const slowerAfter = Duration.toMillis(options?.slowerAfter ?? "1 second")
  return (self) =>
    Effect.gen(function* () {
      const table = yield* Decision.CurrentTable
      const hub = yield* ResilienceEvent.CurrentHub
      const translate = yield* Notice.translator
      const notice: Notice.Notice = { _tag: "Slower", message: translate({ _tag: "Slower" }) }
      const mark = (served: LlmResponse.Served): LlmResponse.Served =>
        served.notice === undefined ? { ...served, notice } : served

      const retrying = <A>(
        request: LlmRequest.LlmRequest,
        until: number,
        ask: (request: LlmRequest.LlmRequest) => Effect.Effect<A, Failure>,
        late: (answer: A) => A
      ): Effect.Effect<A, Failure> =>
        Effect.catch(ask(request), (first) =>
          Effect.gen(function* () {
            if (!mayRetry(table, request, first, maxRetryAfter)) return yield* Effect.fail(first)
            const next = yield* Schedule.toStep(schedule)
            const clock = yield* Clock.Clock
            const failedAt = monotonic(clock)
            let error: ProviderError.ProviderError = first
            for (let retries = 1; ; retries++) {
              const planned = yield* Pull.catchDone(
                next(clock.currentTimeMillisUnsafe(), error),
                () => Effect.undefined
              )
              if (planned === undefined) return yield* Effect.fail(error)
              const asked = ProviderError.retryAfter(error)
              const delay = asked === undefined ? planned[1] : Duration.max(planned[1], asked)
              if (monotonic(clock) + Duration.toMillis(delay) >= until) return yield* Effect.fail(error)
              const reason = self.availability(request, monotonic(clock))
              if (reason !== undefined && !endsWithin(reason, delay)) return yield* Effect.fail(error)
              if (request.allowance.left <= request.stepsLeft) return yield* Effect.fail(error)
              const announce = (): void => {
                if (!hub.active()) return
                hub.publish({ _tag: "Retried", request: request.id, provider: self.id, attempt: retries, delay, error })
              }
              const again = yield* onceMore(clock, request, delay, ask, announce)
              if (again === undefined) return yield* Effect.fail(error)
              const { result, sentAt } = again
              const lost = sentAt - failedAt
              if (result._tag === "Success") return lost >= slowerAfter ? late(result.success) : result.success
              // A refusal of our own tells less than the error that led to it.
              if (result.failure._tag === "LlmUnavailable") return yield* Effect.fail(error)
              error = result.failure
              if (!mayRetry(table, request, error, maxRetryAfter)) return yield* Effect.fail(error)
            }
          })
        )

      // Waits and asks again, or returns `undefined` when the budget has none left. What the provider never saw, because the caller left or another
      // policy refused it, is given back.
      const onceMore = <A>(
        clock: Clock.Clock,
        request: LlmRequest.LlmRequest,
        delay: Duration.Duration,
        ask: (request: LlmRequest.LlmRequest) => Effect.Effect<A, Failure>,
        announce: () => void
      ) =>
        Effect.uninterruptibleMask((restore) => {
          const grant = self.budget?.grant("retry", monotonic(clock))
          if (self.budget !== undefined && grant === undefined) return Effect.undefined
          request.allowance.left--
          announce()
          let sentAt: number | undefined
          const asked = Effect.suspend(() => {
            sentAt = monotonic(clock)
            return Effect.result(ask({ ...request, grant }))
          })
          return Effect.onExit(restore(Effect.andThen(Effect.sleep(delay), asked)), (exit) => {
            if (grant !== undefined) self.budget?.restore(grant)
            const failure = Exit.isSuccess(exit) && exit.value._tag === "Failure" ? exit.value.failure : undefined
            if (sentAt === undefined || (failure !== undefined && LlmUnavailable.wasRefused(failure)))
              request.allowance.left++
            return Effect.void
          }).pipe(Effect.map((result) => ({ result, sentAt: sentAt ?? 0 })))
        })

      const started = (request: LlmRequest.LlmRequest): Effect.Effect<LlmRequest.LlmRequest> =>
        request.deadline === undefined
          ? Effect.succeed(request)
          : Clock.clockWith((clock) => Effect.succeed(LlmRequest.start(request, monotonic(clock))))

      const lateAnswer = (response: LlmResponse.LlmResponse) => LlmResponse.withServed(response, mark(response.served))
      const lateStream = (opened: Opened): Opened => ({
        ...opened,
        head: opened.head.some((part) => part.type === "served")
          ? Arr.map(opened.head, (part) => (part.type === "served" ? { ...part, served: mark(part.served) } : part))
          : Arr.prepend(opened.head, { type: "served", served: mark(LlmResponse.servedBy(self)) })
      })

      return {
        ...self,
        generate: (asked) =>
          asked.deadline === undefined
            ? retrying(asked, asked.expiresAt, self.generate, lateAnswer)
            : Effect.flatMap(started(asked), (request) =>
                retrying(request, request.expiresAt, self.generate, lateAnswer)
              ),
        stream: (asked) =>
          opened((scope) =>
            Effect.flatMap(started(asked), (request) =>
              retrying(
                request,
                Math.min(request.expiresAt, request.commitBy),
                (request) => open(self.id, self.stream(request), scope),
                lateStream
              )
            )
          )
      }
    })
}

// A wait longer than what the provider, or our own breaker, has to rest is worth while; a shorter one would end in a refusal.
const endsWithin = (reason: Attempt.SkipReason, delay: Duration.Duration): boolean => {
  const wait = Attempt.skipRetryAfter(reason)
  return wait !== undefined && Duration.toMillis(wait) <= Duration.toMillis(delay) + 1
}

const mayRetry = (
  table: Decision.Table,
  request: LlmRequest.LlmRequest,
  error: Failure,
  maxRetryAfter: number
): error is ProviderError.ProviderError => {
  if (error._tag === "LlmUnavailable" || request.lastResort) return false
  const asked = ProviderError.retryAfter(error)
  if (asked !== undefined && Duration.toMillis(asked) > maxRetryAfter) return false
  const advice = error._tag === "Timeout" ? undefined : error.shouldRetry
  if (advice !== undefined) return advice
  switch (Decision.of(table, error).retry) {
    case "yes":
      return true
    case "no":
      return false
    case "ifShort":
      return asked !== undefined
    case "ifLast":
      return request.stepsLeft === 0
  }
}
