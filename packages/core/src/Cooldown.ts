/**
 * Leaves a provider alone for as long as it asked, for all calls and not only for the one that was told.
 *
 * Errors whose {@link Decision} says `coolDown` (rate limits) rest the provider for its Retry-After, or for `rest` when it named none.
 * Errors that say `isolate` (credentials, quota, an unknown model) rest it until the reset it named, or for `isolation`: only a person
 * can cure them, but nobody should have to restart the application afterwards. Of two overlapping rests the longer one wins.
 *
 * Resetting the provider's circuit (`LlmResilience.circuits`) wakes it as well, once the key is rotated or the bill is paid.
 *
 * The chain skips a resting step without calling it. When every step rests, the one that is back soonest may be asked anyway.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Ref from "effect/Ref"
import type { SkipReason } from "./Attempt.ts"
import * as Decision from "./Decision.ts"
import * as LlmUnavailable from "./LlmUnavailable.ts"
import * as Policy from "./Policy.ts"
import * as ProviderError from "./ProviderError.ts"
import * as ResilienceEvent from "./ResilienceEvent.ts"

/**
 * Options of cooling down.
 *
 * **Details**
 *
 * - `rest`: after a rate limit without Retry-After, 5 s by default. `maxRest`: the longest rest after one, 60 s by default.
 * - `isolation`: after an error that isolates and names no reset, 5 minutes by default. `maxIsolation`: 24 hours by default.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly rest?: Duration.Input | undefined
  readonly maxRest?: Duration.Input | undefined
  readonly isolation?: Duration.Input | undefined
  readonly maxIsolation?: Duration.Input | undefined
}

interface Rest {
  readonly until: number
  readonly isolatedBecause: string | undefined
}

const awake: Rest = { until: -Infinity, isolatedBecause: undefined }

/**
 * Creates the policy.
 *
 * @category policies
 * @since 0.1.0
 */
export const policy = (options?: Options): Policy.Policy => {
  const rest = millisOf("rest", options?.rest ?? "5 seconds")
  const maxRest = millisOf("maxRest", options?.maxRest ?? "60 seconds")
  const isolation = millisOf("isolation", options?.isolation ?? "5 minutes")
  const maxIsolation = millisOf("maxIsolation", options?.maxIsolation ?? "24 hours")
  return (self) =>
    Effect.gen(function* () {
      const table = yield* Decision.CurrentTable
      const hub = yield* ResilienceEvent.CurrentHub
      const ref = Ref.makeUnsafe(awake)

      const wake = Effect.sync(() => {
        ref.ref.current = awake
      })

      const reasonNow = (now: number): SkipReason | undefined => {
        const { until, isolatedBecause } = ref.ref.current
        // A retry that waited for exactly this long may be woken a fraction of a millisecond early.
        if (until - now < 1) return undefined
        const retryAfter = Duration.millis(until - now)
        return isolatedBecause === undefined
          ? { _tag: "CoolingDown", retryAfter }
          : { _tag: "Isolated", because: isolatedBecause, retryAfter }
      }

      const sendToRest = (error: ProviderError.ProviderError, now: number): void => {
        const decision = Decision.of(table, error).rest
        if (decision === "none") return
        const asked = ProviderError.retryAfter(error)
        const millis =
          decision === "coolDown"
            ? Math.min(maxRest, asked === undefined ? rest : Duration.toMillis(asked))
            : Math.min(maxIsolation, asked === undefined ? isolation : Duration.toMillis(asked))
        if (now + millis <= ref.ref.current.until) return
        const isolatedBecause = decision === "isolate" ? ProviderError.kind(error) : undefined
        ref.ref.current = { until: now + millis, isolatedBecause }
        if (!hub.active()) return
        const duration = Duration.millis(millis)
        hub.publish(
          isolatedBecause === undefined
            ? { _tag: "CooledDown", provider: self.id, duration }
            : { _tag: "Isolated", provider: self.id, because: isolatedBecause, duration }
        )
      }

      return {
        ...self,
        ...Policy.observe<"lastResort" | void>({
          admit: (request, now) => {
            if (request.lastResort) return Effect.succeed("lastResort")
            const reason = reasonNow(now)
            return reason === undefined
              ? Effect.void
              : Effect.fail(LlmUnavailable.make([{ _tag: "Skipped", provider: self.id, model: self.model, reason }]))
          },
          settle: (ticket, outcome, now) => {
            // Any other success may have been under way before the provider asked for rest.
            if (outcome._tag === "Succeeded" && ticket === "lastResort") ref.ref.current = awake
            if (outcome._tag === "Failed" && outcome.error._tag !== "LlmUnavailable") sendToRest(outcome.error, now)
            return Effect.void
          }
        })(self),
        circuits: new Map(
          Array.from(self.circuits, ([id, circuit]) => [
            id,
            id === self.id ? { ...circuit, reset: Effect.andThen(wake, circuit.reset) } : circuit
          ])
        ),
        availability: (request, now) =>
          (request.lastResort ? undefined : reasonNow(now)) ?? self.availability(request, now)
      }
    })
}

const millisOf = (name: keyof Options, input: Duration.Input): number => {
  const millis = Duration.toMillis(input)
  if (!(millis >= 0)) throw new RangeError(`Cooldown.policy: ${name} must not be negative, got ${millis} ms`)
  return millis
}
