/**
 * Asks a second time when the first answer is unusually late, and takes whichever comes first.
 *
 * A few calls take many times longer than the others, for reasons that a second call does not share ("The Tail at Scale", Dean and Barroso,
 * 2013). Asking again after the time that 95 of 100 calls need costs one call in twenty and cuts off the tail.
 *
 * There are two ways to hedge. {@link policy} asks the same provider twice. The `hedge` option of `Fallback` asks the next step of the chain,
 * which also helps when the whole provider has become slow.
 *
 * **Rules**
 *
 * - The second call goes out `after` a fixed time, or after the `quantile` of what the provider's {@link Vitals} have seen for this kind of call (whole
 *   answers, or first contents of streams). Before they are warm nothing is hedged.
 * - Each hedge is taken from the {@link Budget} of the slow provider and from the attempts of the request. Where nothing is left, none is sent.
 * - A stream is hedged before its first content only. The first answer wins; the other call is interrupted and counts for nothing.
 * - A call that fails before its hedge is due is not hedged: retries and the fallback chain are there for failures. One that fails after leaves
 *   the word to the other. When both fail, the later error goes up. An error that would be the same everywhere ends both at once.
 *
 * @since 0.1.0
 */
import type * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Decision from "./Decision.ts"
import { open, opened } from "./internal/opening.ts"
import { racing } from "./internal/racing.ts"
import type { LlmRequest } from "./LlmRequest.ts"
import * as LlmUnavailable from "./LlmUnavailable.ts"
import type * as Policy from "./Policy.ts"
import type { Failure, Provider } from "./Provider.ts"
import * as ResilienceEvent from "./ResilienceEvent.ts"
import type { Method } from "./Vitals.ts"

/**
 * Options of hedging.
 *
 * **Details**
 *
 * - `after`: the time after which a call is hedged; by default the `quantile` of the provider's own latency.
 * - `quantile`: 0.95 by default.
 * - `minimum`: no hedge goes out earlier than this, however fast the provider usually is; 50 ms by default.
 * - `hedges`: how many further calls one request may get, 1 by default. In a chain each goes to the next step.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly after?: Duration.Input | undefined
  readonly quantile?: number | undefined
  readonly minimum?: Duration.Input | undefined
  readonly hedges?: number | undefined
}

/**
 * Options in plain numbers of milliseconds; see {@link settingsOf}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Settings {
  readonly after: number | undefined
  readonly quantile: number
  readonly minimum: number
  readonly hedges: number
}

/**
 * Checks the options and fills in the defaults.
 *
 * @category constructors
 * @since 0.1.0
 */
export const settingsOf = (options: Options | undefined): Settings => {
  const after = options?.after === undefined ? undefined : Duration.toMillis(options.after)
  const quantile = options?.quantile ?? 0.95
  const minimum = Duration.toMillis(options?.minimum ?? "50 millis")
  const hedges = options?.hedges ?? 1
  if (after !== undefined && !(after > 0))
    throw new RangeError(`Hedge: after must be longer than zero, got ${after} ms`)
  if (!(quantile > 0 && quantile < 1)) throw new RangeError(`Hedge: quantile must be in (0, 1), got ${quantile}`)
  if (!(minimum >= 0)) throw new RangeError(`Hedge: minimum must not be negative, got ${minimum} ms`)
  if (!Number.isInteger(hedges) || hedges < 1)
    throw new RangeError(`Hedge: hedges must be an integer >= 1, got ${hedges}`)
  return { after, quantile, minimum, hedges }
}

/**
 * Returns after how many milliseconds a call of this kind is hedged, or `undefined` while too little is known about the provider.
 *
 * @category accessors
 * @since 0.1.0
 */
export const delayOf = (settings: Settings, self: Provider, method: Method): number | undefined => {
  const delay = settings.after ?? self.vitals?.quantile(method, settings.quantile)
  return delay === undefined ? undefined : Math.max(settings.minimum, delay)
}

/**
 * Takes one hedge from the request, of which `reserved` attempts are left alone, and from the budget of the slow provider. Returns the request
 * to send, or `undefined` when none is left.
 *
 * @category accessors
 * @since 0.1.0
 */
export const afford = (self: Provider, request: LlmRequest, reserved: number, now: number): LlmRequest | undefined => {
  if (request.allowance.left <= reserved) return undefined
  const grant = self.budget?.grant("hedge", now)
  if (self.budget !== undefined && grant === undefined) return undefined
  request.allowance.left--
  return { ...request, grant }
}

/**
 * Creates the policy that asks the same provider again.
 *
 * **Example** (Cutting off the tail)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Hedge, LlmRequest, LlmResponse, Provider } from "@llm-resilience/core"
 *
 * let calls = 0
 * const sometimesSlow = Provider.make({
 *   id: "sometimes-slow",
 *   model: "m",
 *   generate: () =>
 *     Effect.as(
 *       Effect.sleep(calls++ === 0 ? "10 seconds" : "1 millis"),
 *       { content: LlmResponse.textContent("Hello!") }
 *     )
 * })
 *
 * const program = Effect.scoped(
 *   Effect.gen(function*() {
 *     const hedged = yield* Hedge.policy({ after: "20 millis", minimum: 0 })(sometimesSlow)
 *     return (yield* hedged.generate(LlmRequest.make({ prompt: "Hi" }))).text
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
  const settings = settingsOf(options)
  return (self) =>
    Effect.gen(function* () {
      const hub = yield* ResilienceEvent.CurrentHub
      const table = yield* Decision.CurrentTable
      const fatal = (cause: Cause.Cause<Failure>): boolean => {
        const error = cause.reasons.find((reason) => reason._tag === "Fail")?.error
        return error !== undefined && error._tag !== "LlmUnavailable" && Decision.of(table, error).fallOver === "no"
      }

      // `discard` gives back what a loser holds that came to its answer at the very moment of the other.
      const hedged = <A>(
        request: LlmRequest,
        method: Method,
        ask: (request: LlmRequest) => Effect.Effect<A, Failure>,
        discard: (answer: A) => Effect.Effect<void>
      ): Effect.Effect<A, Failure> => {
        const delay = request.lastResort ? undefined : delayOf(settings, self, method)
        if (delay === undefined) return ask(request)
        let won = false
        let hedges = 0
        let failure: Failure | undefined
        const leg = (request: LlmRequest) =>
          Effect.matchEffect(ask(request), {
            onFailure: (error) => {
              if (error._tag !== "LlmUnavailable" || (failure === undefined && !LlmUnavailable.wasRefused(error))) {
                failure = error
              }
              return Effect.fail(error)
            },
            onSuccess: (answer) => {
              if (won) return Effect.andThen(discard(answer), Effect.never)
              won = true
              return Effect.succeed(answer)
            }
          })
        const again = (now: number): Effect.Effect<A, Failure> | undefined => {
          const sent =
            self.availability(request, now) === undefined ? afford(self, request, request.stepsLeft, now) : undefined
          if (sent === undefined) return undefined
          hedges++
          // A hedge that waited in a line of ours until it was over was none.
          const hedge = Effect.onExit(leg(sent), (exit) => {
            if (sent.grant === undefined ? refused(exit) : !sent.grant.sent) {
              if (sent.grant !== undefined) self.budget?.restore(sent.grant)
              request.allowance.left++
            }
            return Effect.void
          })
          if (hub.active()) {
            const after = Duration.millis(delay)
            hub.publish({ _tag: "Hedged", request: request.id, provider: self.id, to: self.id, after })
          }
          return hedges < settings.hedges ? racing(hedge, delay, again, fatal) : hedge
        }
        // A hedge that was refused in the end, or asked a chain that had nobody, does not make it as if nobody had been asked.
        return Effect.mapError(racing(leg(request), delay, again, fatal), (error) =>
          error._tag === "LlmUnavailable" ? (failure ?? error) : error
        )
      }

      return {
        ...self,
        generate: (request) => hedged(request, "generate", self.generate, () => Effect.void),
        stream: (request) =>
          opened((scope) =>
            hedged(
              request,
              "stream",
              (request) => open(self.id, self.stream(request), scope),
              ({ close }) => close(Exit.void)
            )
          )
      }
    })
}

const refused = (exit: Exit.Exit<unknown, Failure>): boolean => {
  const error = Exit.findErrorOption(exit)
  return error._tag === "Some" && LlmUnavailable.wasRefused(error.value)
}
